//! `dump`: every object as a line.

use anyhow::Result;

use crate::analysis::names::Names;
use crate::graph::ObjectId;
use crate::heap::object::Object;
use crate::report::ndjson::{self, Reference};
use crate::target::cache::CachedMemory;

use super::args::{Dump, DumpFormat};
use super::open::{self, Opened};
use super::output::Destination;

/// Takes a census and writes every object of it, in order of address.
pub fn run(options: &Dump) -> Result<()> {
    let DumpFormat::Ndjson = options.format;
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    let opened = open::open(&options.target)?;
    if options.references {
        return with_references(opened, options, &destination);
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
fn with_references(mut opened: Opened, options: &Dump, destination: &Destination) -> Result<()> {
    let taken = opened.collect(&options.following, |collected| {
        let writer = ndjson::Writer::new(collected.types);
        let cached = CachedMemory::new(collected.memory);
        let references = collected.references.over(&cached);
        let names = Names::new(&cached, collected.objects, collected.types, &references);
        let mut found: Vec<Reference> = Vec::new();
        destination.write(|out| {
            collected.objects.from(0).try_for_each(|(id, object)| {
                found.clear();
                let id = ObjectId(id as u32);
                names.for_each(id, &mut |to, label| {
                    let address = collected.objects.address(to.index());
                    if found.last().map(|last| last.address) != Some(address) {
                        let words = || names.spell(id, label).name(options.show_values);
                        found.push(Reference { address, label: options.labels.then(words) });
                    }
                });
                writer.write(out, &object, Some(&found))
            })
        })?;
        Ok(names.torn())
    })?;
    if taken.collected > 0 {
        log::warn!("the references of {} objects could not be followed to their end", taken.collected);
    }
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}
