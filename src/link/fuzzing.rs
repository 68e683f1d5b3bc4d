//! What the fuzzer of the link's messages calls; see tests/fuzz.

use super::{FromFront, FrontSettings, ToFront};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Messages of the link, both ways: what is understood is understood the same again.
///
/// # Panics
/// When it is not.
pub fn link(bytes: &[u8]) {
    same_again::<ToFront>(bytes);
    same_again::<FromFront>(bytes);
    drop(serde_json::from_slice::<FrontSettings>(bytes));
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(bytes) {
        let written = serde_json::to_vec(&message).unwrap_or_default();
        let again = serde_json::from_slice::<T>(&written).ok();
        assert_eq!(again, Some(message), "not the same again");
    }
}

#[cfg(test)]
mod tests {
    use crate::replay::corpus;

    #[test]
    fn what_was_found_stays_found() {
        corpus("link", super::link);
    }
}
