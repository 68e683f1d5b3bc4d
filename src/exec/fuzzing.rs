//! What the fuzzer of the loader's arguments calls; see tests/fuzz.

use super::Chain;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Arguments, each with a NUL behind it: what is understood is written down the same again.
///
/// # Panics
/// When it is not.
pub fn arguments(bytes: &[u8]) {
    let whole = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let arguments = whole.split(|byte| *byte == 0).map(<[u8]>::to_vec);
    if let Ok(chain) = Chain::parse(arguments.map(OsString::from_vec)) {
        // The verb is before them.
        let again = Chain::parse(chain.to_args().into_iter().skip(1));
        assert_eq!(again.ok(), Some(chain), "not the same again");
    }
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("arguments", super::arguments);
    }
}
