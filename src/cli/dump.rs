//! `dump`: every object as a line.

use anyhow::Result;

use crate::heap::object::Object;
use crate::report::ndjson;
use crate::target::Address;

use super::args::{Dump, DumpFormat};
use super::open::{self, Opened};
use super::output::Destination;

/// Takes a census and writes every object of it, in order of address.
pub fn run(options: &Dump) -> Result<()> {
    let DumpFormat::Ndjson = options.format;
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    let opened = open::open(&options.target)?;
    if options.references {
        return with_references(opened, &destination);
    }
    let taken = opened.census(
        |_| Vec::<Object>::new(),
        |_, found| {
            let mut objects: Vec<Object> = found.into_iter().flatten().collect();
            objects.sort_unstable_by_key(|object| object.address);
            objects
        },
    )?;
    let writer = ndjson::Writer::new(&taken.types);
    destination.write(|out| taken.collected.iter().try_for_each(|object| writer.write(out, object, None)))?;
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}

/// The same with what each object refers to. One and the same object next to itself is written once.
fn with_references(opened: Opened, destination: &Destination) -> Result<()> {
    let taken = opened.collect(|collected| {
        let writer = ndjson::Writer::new(collected.types);
        let reads = collected.references.reads();
        let mut targets: Vec<Address> = Vec::new();
        destination.write(|out| {
            collected.objects.iter().try_for_each(|object| {
                targets.clear();
                collected.references.for_each(&reads, object.address, object.type_id, &mut |word, _| {
                    if collected.index.find(word).is_some() && targets.last() != Some(&Address(word)) {
                        targets.push(Address(word));
                    }
                });
                writer.write(out, object, Some(&targets))
            })
        })?;
        Ok(reads.torn())
    })?;
    if taken.collected > 0 {
        log::warn!("the references of {} objects could not be followed to their end", taken.collected);
    }
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}
