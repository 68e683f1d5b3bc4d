//! Messages of the link, both ways: what is understood is understood the same again.

#![no_main]

use gapless::link::{FromFront, FrontSettings, ToFront};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = serde_json::from_slice::<ToFront>(bytes) {
        let again = serde_json::to_vec(&message).unwrap();
        assert_eq!(message, serde_json::from_slice(&again).unwrap());
    }
    if let Ok(message) = serde_json::from_slice::<FromFront>(bytes) {
        let again = serde_json::to_vec(&message).unwrap();
        assert_eq!(message, serde_json::from_slice(&again).unwrap());
    }
    drop(serde_json::from_slice::<FrontSettings>(bytes));
});
