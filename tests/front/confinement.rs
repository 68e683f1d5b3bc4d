//! What a front can call no more.

use gapless::front::confinement::{NEVER, confine};
use nix::libc;
use rustix::io::Errno;
use std::io;

/// All arguments are zero: what the filter let through would fail by itself, or change this thread only.
#[expect(unsafe_code, reason = "no safe function makes a call by its number")]
fn call(number: i64) -> io::Result<()> {
    // SAFETY: no call of the list writes to address zero, and the thread ends after it.
    match unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[test]
fn every_call_that_a_front_never_makes_is_refused_to_it_and_not_to_others() {
    let confined = std::thread::spawn(|| {
        confine().unwrap();
        let refused = |number: &i64| {
            let error = call(*number).err();
            error.as_ref().and_then(Errno::from_io_error) == Some(Errno::PERM)
        };
        let passed: Vec<_> = NEVER.iter().filter(|number| !refused(number)).collect();
        assert!(passed.is_empty(), "let through: {passed:?}");
        let nothing = call(libc::SYS_getpid);
        assert!(nothing.is_ok(), "{nothing:?}");
    });
    confined.join().unwrap();
    let executed = std::process::Command::new("true").status().unwrap();
    assert!(executed.success(), "the filter is that of one thread");
}
