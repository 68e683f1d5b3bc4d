//! The arguments of the loader: what is understood is written down the same again.

#![no_main]

use gapless::exec::Chain;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

libfuzzer_sys::fuzz_target!(|arguments: Vec<Vec<u8>>| {
    if let Ok(chain) = Chain::parse(arguments.into_iter().map(OsString::from_vec)) {
        let mut written = chain.to_args().into_iter();
        // The verb before them.
        written.next();
        assert_eq!(chain, Chain::parse(written).unwrap());
    }
});
