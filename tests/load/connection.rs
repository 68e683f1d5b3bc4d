//! What an answer of the probe app must prove.

use crate::digest;
use gapless::verify::{Answer, Broken, Framing};

/// What a good answer tells.
pub struct Checked {
    pub version: String,
    /// Empty where the app does not say it.
    pub pid: String,
    pub closes: bool,
}

/// What the client knows and the answer must prove.
pub struct Expected<'a> {
    pub id: &'a str,
    /// Digest and length of the request body.
    pub sent: (u64, usize),
}

/// Holds an answer to everything it must prove: the request it belongs to, one version from head to
/// end, and every byte of both bodies.
pub fn check(answer: &Answer, expected: &Expected<'_>) -> Result<Checked, Broken> {
    let head = &answer.head;
    whole(answer)?;
    let header = |name| {
        head.get(name)
            .ok_or_else(|| Broken::Wrong(format!("the header {name} is missing")))
    };
    same("request id", header("x-client-id")?, expected.id)?;
    same(
        "digest of the request",
        header("x-received-digest")?,
        &digest::text(expected.sent.0),
    )?;
    same(
        "length of the request",
        header("x-received-bytes")?,
        &expected.sent.1.to_string(),
    )?;
    let version = header("x-app-version")?.to_owned();
    let proof = if answer.framing == Framing::Chunked {
        chunked(&answer.body, &version, expected.id)?
    } else {
        let begin = format!("{version} {}\n", expected.id);
        same(
            "begin of the body",
            &text(&answer.body, begin.len()),
            &begin,
        )?;
        (
            header("x-body-digest")?.to_owned(),
            digest::add(digest::OFFSET, &answer.body),
        )
    };
    same("digest of the answer", &digest::text(proof.1), &proof.0)?;
    Ok(Checked {
        version,
        pid: header("x-app-pid")?.to_owned(),
        closes: head.closes(),
    })
}

/// Of an app that proves nothing: a whole page, which ends with a version.
pub fn check_plain(answer: &Answer) -> Result<Checked, Broken> {
    whole(answer)?;
    let page = String::from_utf8_lossy(&answer.body);
    let last = page.split_whitespace().last().unwrap_or_default();
    if !is_version(last) {
        return Err(Broken::Wrong(format!("no version at the end of {page:?}")));
    }
    Ok(Checked {
        version: last.to_owned(),
        pid: String::new(),
        closes: answer.head.closes(),
    })
}

/// `v12`
fn is_version(word: &str) -> bool {
    word.strip_prefix('v')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A good status, and nobody needs the end of the connection to know that it is all.
fn whole(answer: &Answer) -> Result<(), Broken> {
    if answer.framing == Framing::UntilClose {
        return Err(Broken::Malformed("a body without a length".into()));
    }
    let status = answer.head.status;
    if status != 200 {
        let text = String::from_utf8_lossy(&answer.body);
        let text = text.chars().take(100).collect();
        return Err(Broken::Status { status, text });
    }
    Ok(())
}

fn text(body: &[u8], bytes: usize) -> String {
    String::from_utf8_lossy(body.get(..bytes).unwrap_or(body)).into_owned()
}

/// Every line but the last names version and id; the last is the digest of the others.
fn chunked(body: &[u8], version: &str, id: &str) -> Result<(String, u64), Broken> {
    let end = body.len().saturating_sub(17);
    let (lines, last) = body.split_at(end);
    let begin = format!("{version} {id} ");
    for line in String::from_utf8_lossy(lines).lines() {
        if !line.starts_with(&begin) {
            return Err(Broken::Wrong(format!(
                "a line of another answer or version: {line:?}"
            )));
        }
    }
    let last = String::from_utf8_lossy(last).trim_end().to_owned();
    Ok((last, digest::add(digest::OFFSET, lines)))
}

fn same(what: &str, got: &str, wanted: &str) -> Result<(), Broken> {
    if got == wanted {
        return Ok(());
    }
    Err(Broken::Wrong(format!("{what} is {got:?}, not {wanted:?}")))
}
