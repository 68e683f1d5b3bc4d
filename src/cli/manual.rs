//! `gapless manual DIR`: gapless-deploy(1) and the like, from the grammar itself, so that they say
//! what the help says.
//!
//! Nobody has to keep help and manual equal. What is not in the help is written by hand, in gapless(1), (7)
//! and (8).

use super::{CliError, Exit, ManualArgs, visible};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;

/// The page that is written by hand is as old as the grammar.
const WRITTEN_BY_HAND: &str = include_str!("../../packaging/man/gapless.1");

/// What else to read, for all commands.
const SEE_ALSO: &str = "gapless(1), gapless.toml(5), gapless(7), gapless.service(8)";

pub(super) fn run(args: &ManualArgs) -> Result<Exit, CliError> {
    let mut grammar = visible();
    grammar.build();
    for command in grammar.get_subcommands() {
        let (name, page) = page(command);
        let path = args.directory.join(name);
        let unwritten = |source| CliError::Directory {
            path: args.directory.clone(),
            source,
        };
        fs::write(path, page.map_err(unwritten)?).map_err(unwritten)?;
    }
    Ok(Exit::Done)
}

/// Its file name, and the page.
fn page(command: &clap::Command) -> (String, io::Result<Vec<u8>>) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let man = Man::new(command.clone().override_usage(usage))
        .date(date())
        .source(concat!("gapless ", env!("CARGO_PKG_VERSION")))
        .manual("gapless");
    (man.get_filename(), written(&man, command))
}

fn written(man: &Man, command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let (explained, examples) = help.split_once("Examples:\n").unwrap_or((&help, ""));
    paragraphs(explained).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    if !examples.is_empty() {
        as_typed(examples).to_writer(&mut page)?;
    }
    exit_status().to_writer(&mut page)?;
    let mut more = Roff::new();
    more.control("SH", ["SEE ALSO"]);
    more.text([roman(SEE_ALSO)]);
    more.to_writer(&mut page)?;
    Ok(page)
}

fn paragraphs(text: &str) -> Roff {
    let mut page = Roff::new();
    for paragraph in text.trim().split("\n\n").filter(|it| !it.is_empty()) {
        page.control("PP", []);
        page.text([roman(paragraph)]);
    }
    page
}

fn as_typed(examples: &str) -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXAMPLES"]);
    page.control("nf", []);
    for line in examples.lines() {
        page.text([roman(line.trim())]);
    }
    page.control("fi", []);
    page
}

fn exit_status() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        page.control("TP", ["4"]);
        page.text([bold(exit.code().to_string())]);
        page.text([roman(exit.meaning())]);
    }
    page
}

fn date() -> &'static str {
    let first = WRITTEN_BY_HAND.lines().next().unwrap_or_default();
    first.trim_start_matches(".Dd ")
}
