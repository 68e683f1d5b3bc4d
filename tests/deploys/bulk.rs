//! Large releases, and many.

use crate::world::eventually;
use crate::world::service::{Heard, SOON};
use crate::world::site::Site;
use crate::world::{alone, is_long};
use gapless::usage;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin};

const LARGE_BYTES: u64 = 300 << 20;
const PEAK_KIB_MAX: u64 = 32 << 10;
const CHUNK_BYTES: usize = 100 << 10;

#[test]
fn three_hundred_megabytes_go_through_with_the_memory_of_a_few() {
    let _alone = alone();
    let site = Site::bare();
    let app = site.app("large", "keep = 2");
    let large = fs::File::create(app.join("large")).unwrap();
    large.set_len(LARGE_BYTES).unwrap();
    let deploy = site.begin(&["deploy", app.to_str().unwrap()]);
    expect_small(deploy, "a directory");
    fs::remove_file(app.join("large")).unwrap();
    for (what, is_packed) in [("a tar", false), ("a tar.zst", true)] {
        let probe = crate::world::tool("probe-app").display().to_string();
        let mut deploy = site.begin(&["deploy", "-", "--", &probe]);
        send_tar(Archive::new(deploy.stdin.take().unwrap(), is_packed));
        expect_small(deploy, what);
    }
    assert_eq!(
        site.service.status().generations.last().unwrap().state,
        "live"
    );
}

/// Waits for its first line, when it still runs, and asks the kernel.
fn expect_small(mut deploy: Child, what: &str) {
    let mut lines = BufReader::new(deploy.stdout.take().unwrap()).lines();
    let staged = lines.next().unwrap().unwrap();
    assert!(
        staged.trim_start().starts_with("staged") && staged.contains("300 MiB"),
        "{staged}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", deploy.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    let peak: u64 = peak.parse().unwrap();
    lines.for_each(drop);
    assert!(deploy.wait().unwrap().success());
    assert!(peak < PEAK_KIB_MAX, "{peak} KiB at its peak for {what}");
}

/// Where an archive goes: as it is, or in one zstd frame of blocks that are not compressed.
struct Archive {
    to: ChildStdin,
    is_packed: bool,
}

impl Archive {
    fn new(mut to: ChildStdin, is_packed: bool) -> Self {
        if is_packed {
            // Magic, nothing of what could be said, a window of 128 KiB.
            to.write_all(b"\x28\xb5\x2f\xfd\x00\x38").unwrap();
        }
        Self { to, is_packed }
    }

    fn write(&mut self, bytes: &[u8], is_last: bool) {
        if self.is_packed {
            let head = u32::try_from(bytes.len()).unwrap() << 3 | u32::from(is_last);
            self.to.write_all(&head.to_le_bytes()[..3]).unwrap();
        }
        self.to.write_all(bytes).unwrap();
    }
}

/// One file of zeros, in blocks.
fn send_tar(mut archive: Archive) {
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(LARGE_BYTES);
    header.set_mode(0o644);
    header.set_cksum();
    archive.write(header.as_bytes(), false);
    let zeros = vec![0; CHUNK_BYTES];
    let chunk = u64::try_from(CHUNK_BYTES).unwrap();
    for _ in 0..LARGE_BYTES / chunk {
        archive.write(&zeros, false);
    }
    assert_eq!(LARGE_BYTES % chunk, 0);
    archive.write(&[0; 1024], true);
}

/// All that could grow.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    releases: Vec<String>,
    incoming: Vec<String>,
    store: usize,
    runtime: usize,
    state: usize,
    kept: Vec<String>,
    processes: usize,
    control_groups: usize,
    keeper_fds: u64,
    front_fds: u64,
}

/// None while something drains or a keeper is asked.
fn rest(site: &Site) -> Option<Rest> {
    let service = &site.service;
    let status = service.try_status()?;
    let is_alone = status.generations.len() == 1 && status.fronts.len() == 1;
    let is_idle = is_alone && status.fronts[0].connections == 0;
    is_idle.then_some(())?;
    let count = |directory: PathBuf| fs::read_dir(directory).unwrap().count();
    // Written once a minute.
    let has_counters = service.state_directory().join("counters.json").exists();
    let mut kept: Vec<_> = service
        .heard(Heard::stored)
        .into_iter()
        .map(|name| name.replace(|c: char| c.is_ascii_digit(), ""))
        .collect();
    kept.sort();
    Some(Rest {
        releases: site.releases(),
        incoming: site.left(),
        store: count(site.store()),
        runtime: count(service.runtime_directory()),
        state: count(service.state_directory()) - usize::from(has_counters),
        kept,
        processes: service.all_processes().len(),
        control_groups: service.control_groups(),
        keeper_fds: usage::of(service.main_pid())?.fds?,
        front_fds: usage::of(status.fronts[0].pid)?.fds?,
    })
}

/// What the next keeper would have to read.
fn kept_bytes(site: &Site) -> u64 {
    let state = fs::File::from(site.service.stored_fd("gapless-state"));
    // Where the length stands in the head of each of its two halves.
    let length = |half: u64| {
        let mut length = [0; 8];
        state.read_exact_at(&mut length, half + 24).unwrap();
        u64::from_le_bytes(length)
    };
    length(0).max(length(16 << 20))
}

#[test]
fn a_hundred_deploys_leave_what_one_left() {
    let site = Site::bare();
    let count = if is_long() { 300 } else { 100 };
    let app = site.app("many", "keep = 3\nsettle = \"1ms\"");
    let file = app.join("gapless.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("settle = \"100ms\"\n", "")).unwrap();
    let deploy = |number: u32| {
        let release = format!("n{number:03}");
        let arguments = ["deploy", app.to_str().unwrap(), "--release", &release];
        site.cli(&arguments).expect_success();
    };
    (0..5).for_each(deploy);
    let at_rest = || {
        let mut seen = None;
        eventually("all is at rest", SOON, || {
            let now = rest(&site);
            let is_still = now.is_some() && now == seen;
            seen = now;
            is_still.then_some(())
        });
        seen.unwrap()
    };
    let (mut before, kept_before) = (at_rest(), kept_bytes(&site));
    (5..count - 1).for_each(deploy);
    // What still ran at the deploy before goes with the last one.
    at_rest();
    deploy(count - 1);
    let (after, kept_after) = (at_rest(), kept_bytes(&site));
    before.releases = (count - 3..count)
        .flat_map(|number| [format!("n{number:03}"), format!("n{number:03}.json")])
        .collect();
    // A look at the status is a connection that may just be open.
    assert!(
        after.keeper_fds <= before.keeper_fds + 1,
        "{before:#?} {after:#?}"
    );
    before.keeper_fds = after.keeper_fds;
    assert_eq!(after, before);
    // Numbers have more digits by now.
    assert!(
        kept_after < kept_before + 200,
        "{kept_before} bytes became {kept_after}"
    );
}
