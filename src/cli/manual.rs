//! `man`: manual pages, made from the arguments.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Command;
use clap_mangen::Man;

/// Prints the page of the program, or of a verb. Exit codes are on the program's page.
pub fn run(mut program: Command, verb: Option<&str>) -> Result<()> {
    program.build();
    let page = match verb {
        None => Man::new(program),
        Some(verb) => {
            let found = program.get_subcommands().find(|command| command.get_name() == verb).cloned();
            let Some(found) = found else { bail!("no verb `{verb}`: heapsonde --help lists them") };
            Man::new(found).title(format!("heapsonde-{verb}"))
        }
    };
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok(std::io::stdout().write_all(&text)?)
}
