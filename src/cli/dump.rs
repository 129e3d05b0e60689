//! `dump`: every object as a line.

use anyhow::Result;

use crate::heap::object::Object;
use crate::report::ndjson;

use super::args::{Dump, DumpFormat};
use super::open;
use super::output::Destination;

/// Takes a census and writes every object of it, in order of address.
pub fn run(options: &Dump) -> Result<()> {
    let DumpFormat::Ndjson = options.format;
    let destination = Destination::new(&options.output, || Destination::Stdout)?;
    let opened = open::open(&options.target)?;
    let taken = opened.census(
        |_| Vec::<Object>::new(),
        |_, found| {
            let mut objects: Vec<Object> = found.into_iter().flatten().collect();
            objects.sort_unstable_by_key(|object| object.address);
            objects
        },
    )?;
    let writer = ndjson::Writer::new(&taken.types);
    destination.write(|out| taken.collected.iter().try_for_each(|object| writer.write(out, object)))?;
    Ok(taken.problems.write(&mut std::io::stderr().lock())?)
}
