//! `gapless log-level`: changes the level of keeper and fronts while they run.

use super::client::{self, ANSWER_LIMIT};
use super::output::{printable, say, say_json};
use super::{CliError, Exit, LogLevelArgs, instance};
use crate::api::LevelInUse;
use hyper::Method;

pub(super) fn run(args: &LogLevelArgs) -> Result<Exit, CliError> {
    let instance = instance::find(args.name.as_ref())?;
    let path = format!("/log-level/{}", as_segment(&args.level));
    let answer = client::ask(&instance, Method::POST, &path, Some(ANSWER_LIMIT))?;
    let in_use: LevelInUse = answer.read()?;
    if args.json {
        say_json(&in_use);
        return Ok(Exit::Done);
    }
    let level = printable(&in_use.level);
    say(&format!("log level is {level} until the next reload"));
    Ok(Exit::Done)
}

/// Of a path: RFC 3986 section 3.3.
fn as_segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b',' | b':' | b'=' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_becomes_one_segment_of_a_path() {
        assert_eq!(
            as_segment("info,gapless::front=debug"),
            "info,gapless::front=debug"
        );
        assert_eq!(as_segment("[a{b}]=x/?"), "%5Ba%7Bb%7D%5D=x%2F%3F");
    }
}
