//! Ring 3: gapless as installed, under a real systemd 252 and 257, in containers
//! (`world::container`), with the strict client outside asking all the while.
//!
//! Every scenario is a function of the base; the `#[test]` functions at the end run each on both.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy knows it in #[test] functions only"
)]
#![allow(
    clippy::print_stderr,
    reason = "what was measured goes to stderr: cargo test --test systemd -- --nocapture"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests wait for real processes, in real time: nothing here can be paused"
)]

#[path = "systemd/apps.rs"]
mod apps;
#[path = "systemd/cage.rs"]
mod cage;
#[path = "systemd/control.rs"]
mod control;
#[path = "systemd/crowd.rs"]
mod crowd;
#[path = "systemd/deposits.rs"]
mod deposits;
#[path = "systemd/diagnosis.rs"]
mod diagnosis;
#[path = "systemd/ends.rs"]
mod ends;
#[path = "systemd/instances.rs"]
mod instances;
#[path = "systemd/releases.rs"]
mod releases;
#[path = "systemd/replaced.rs"]
mod replaced;
#[path = "systemd/survivors.rs"]
mod survivors;
#[path = "systemd/swaps.rs"]
mod swaps;
#[path = "systemd/users.rs"]
mod users;
mod world;

use apps::{
    apps_not_written_for_gapless_run_unchanged, the_sandbox_and_the_journal_are_as_promised,
};
use cage::an_app_that_was_taken_over_touches_no_process_of_gapless;
use control::{
    an_app_that_was_taken_over_commands_nobody, no_process_of_an_app_outlives_a_stop,
    the_control_socket_comes_and_goes_with_the_service, what_keeps_an_app_from_answering_is_said,
};
use crowd::thousands_of_idle_connections_move_and_systemd_answers_meanwhile;
use diagnosis::bad_apps_are_named_and_nobody_notices;
use ends::{
    a_stop_drains_and_leaves_nothing, it_answers_again_after_a_reboot_without_a_hand,
    restarts_of_the_socket_refuse_nobody,
};
use gapless::api::Status;
use instances::{
    an_app_is_added_and_removed_beside_one_that_loses_nothing,
    instances_of_the_template_have_their_own_user_and_socket,
};
use replaced::{
    a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices,
    a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one,
    killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice,
    restarts_lose_nothing_though_the_app_boots_for_seconds,
    upgrades_lose_nothing_and_systemd_sees_one_process, verify_finds_nothing_lost,
};
use std::time::Duration;
use survivors::survivors_of_a_restart_stay_in_the_cage_of_the_unit;
use swaps::{
    bad_versions_are_refused_and_nobody_notices, killed_workers_cost_only_what_they_were_answering,
    reloads_lose_nothing_and_close_nothing,
};
use users::a_new_user_of_the_unit_leaves_nothing_of_the_old_one;
use world::container::{self, Container};
use world::{alone, beside_others, eventually, is_long, skip};

const SOON: Duration = Duration::from_secs(30);
/// "A few hundred milliseconds": what a restart or a crash of the keeper may cost at most.
const STALL_MAX: Duration = Duration::from_millis(500);
/// New generations settle quickly where the test is about something else.
const QUICK: &str = "settle = \"100ms\"";

/// Of the load: all that there are, and those that end at once.
const ALL_KINDS: &str = "get,post16k,slow,dribble-up,dribble-down,pipelined,new";
const QUICK_KINDS: &str = "get,post16k,pipelined,new";
const KEPT_KINDS: &str = "get,post16k,slow,dribble-up,dribble-down,pipelined";

fn times(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// Runs a scenario in a fresh container, in the company that `held` allows.
fn on<Guard>(base: &str, held: fn() -> Guard, scenario: fn(&mut Container)) {
    if let Some(missing) = container::missing() {
        return skip(&missing);
    }
    let _held = held();
    scenario(&mut Container::boot(base));
}

fn the_version(container: &Container) -> String {
    container.get("/echo").split(' ').next().unwrap().to_owned()
}

/// Waits until only the live generation and one front are left.
fn wait_settled(container: &Container) -> Status {
    eventually("only the live generation is left", SOON, || {
        let status = container.status();
        (status.generations.len() == 1 && status.fronts.len() == 1).then_some(status)
    })
}

fn next_keeper(container: &Container, old: u32) -> u32 {
    eventually("the next keeper runs", SOON, || {
        let pid = container.main_pid().filter(|pid| *pid != old)?;
        (container.property("ActiveState") == "active").then_some(pid)
    })
}

fn scopes(container: &Container) -> String {
    container.systemctl("list-units --all --no-legend --plain --type=scope 'gapless*'")
}

/// Stops socket and service; afterwards nothing of ours may be left.
fn stop_and_expect_nothing_left(container: &Container) {
    container.systemctl("stop gapless.socket gapless.service");
    eventually("no process and no scope is left", SOON, || {
        (container.processes().is_empty() && scopes(container).trim().is_empty()).then_some(())
    });
    assert_eq!(container.property("NFileDescriptorStore"), "0");
    assert_eq!(container.property("ActiveState"), "inactive");
    assert!(
        container
            .try_sh("ss -Hltn sport = 8888")
            .stdout
            .trim()
            .is_empty()
    );
}

// ---- on both systemds

macro_rules! on_both {
    ($held:ident: $($scenario:ident: $on_252:ident, $on_257:ident;)*) => {$(
        #[test]
        fn $on_252() {
            on(container::BASES[0], $held, $scenario);
        }

        #[test]
        fn $on_257() {
            on(container::BASES[1], $held, $scenario);
        }
    )*};
}

on_both! { beside_others:
    a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one:
        on_252_a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one,
        on_257_a_new_gapless_that_dies_or_hangs_is_followed_by_the_old_one;
    what_keeps_an_app_from_answering_is_said:
        on_252_what_keeps_an_app_from_answering_is_said,
        on_257_what_keeps_an_app_from_answering_is_said;
    reloads_lose_nothing_and_close_nothing:
        on_252_a_hundred_reloads_lose_nothing_and_close_nothing,
        on_257_a_hundred_reloads_lose_nothing_and_close_nothing;
    verify_finds_nothing_lost:
        on_252_verify_finds_nothing_lost_through_reload_upgrade_restart_and_kill,
        on_257_verify_finds_nothing_lost_through_reload_upgrade_restart_and_kill;
    survivors_of_a_restart_stay_in_the_cage_of_the_unit:
        on_252_survivors_of_a_restart_stay_in_the_cage_of_the_unit,
        on_257_survivors_of_a_restart_stay_in_the_cage_of_the_unit;
    restarts_of_the_socket_refuse_nobody:
        on_252_restarts_of_the_socket_refuse_nobody,
        on_257_restarts_of_the_socket_refuse_nobody;
    a_stop_drains_and_leaves_nothing:
        on_252_a_stop_drains_and_leaves_nothing,
        on_257_a_stop_drains_and_leaves_nothing;
    it_answers_again_after_a_reboot_without_a_hand:
        on_252_it_answers_again_after_a_reboot_without_a_hand,
        on_257_it_answers_again_after_a_reboot_without_a_hand;
    the_sandbox_and_the_journal_are_as_promised:
        on_252_the_sandbox_and_the_journal_are_as_promised,
        on_257_the_sandbox_and_the_journal_are_as_promised;
    an_app_is_added_and_removed_beside_one_that_loses_nothing:
        on_252_an_app_is_added_and_removed_beside_one_that_loses_nothing,
        on_257_an_app_is_added_and_removed_beside_one_that_loses_nothing;
    an_app_that_was_taken_over_commands_nobody:
        on_252_an_app_that_was_taken_over_commands_nobody,
        on_257_an_app_that_was_taken_over_commands_nobody;
    an_app_that_was_taken_over_touches_no_process_of_gapless:
        on_252_an_app_that_was_taken_over_touches_no_process_of_gapless,
        on_257_an_app_that_was_taken_over_touches_no_process_of_gapless;
    no_process_of_an_app_outlives_a_stop:
        on_252_no_process_of_an_app_outlives_a_stop,
        on_257_no_process_of_an_app_outlives_a_stop;
    a_new_user_of_the_unit_leaves_nothing_of_the_old_one:
        on_252_a_new_user_of_the_unit_leaves_nothing_of_the_old_one,
        on_257_a_new_user_of_the_unit_leaves_nothing_of_the_old_one;
    the_control_socket_comes_and_goes_with_the_service:
        on_252_the_control_socket_comes_and_goes_with_the_service,
        on_257_the_control_socket_comes_and_goes_with_the_service;
    instances_of_the_template_have_their_own_user_and_socket:
        on_252_instances_of_the_template_have_their_own_user_and_socket,
        on_257_instances_of_the_template_have_their_own_user_and_socket;
}

on_both! { alone:
    upgrades_lose_nothing_and_systemd_sees_one_process:
        on_252_twenty_upgrades_lose_nothing_and_systemd_sees_one_process,
        on_257_twenty_upgrades_lose_nothing_and_systemd_sees_one_process;
    killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice:
        on_252_killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice,
        on_257_killed_keepers_and_fronts_are_replaced_and_the_app_does_not_notice;
    a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices:
        on_252_a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices,
        on_257_a_hanging_keeper_is_replaced_by_the_watchdog_and_nobody_notices;
    restarts_lose_nothing_though_the_app_boots_for_seconds:
        on_252_restarts_lose_nothing_though_the_app_boots_for_seconds,
        on_257_restarts_lose_nothing_though_the_app_boots_for_seconds;
}

// ---- on 257, and on 252 in the long form: what systemd does in them is the same in all versions

macro_rules! on_257 {
    ($held:ident: $($scenario:ident: $on_257:ident;)*) => {$(
        #[test]
        fn $on_257() {
            let [old, new] = container::BASES;
            on(new, $held, $scenario);
            if is_long() {
                on(old, $held, $scenario);
            }
        }
    )*};
}

on_257! { beside_others:
    bad_versions_are_refused_and_nobody_notices: on_257_bad_versions_are_refused_and_nobody_notices;
    bad_apps_are_named_and_nobody_notices: on_257_bad_apps_are_named_and_nobody_notices;
    killed_workers_cost_only_what_they_were_answering: on_257_killed_workers_cost_only_what_they_were_answering;
    apps_not_written_for_gapless_run_unchanged: on_257_apps_not_written_for_gapless_run_unchanged;
}

on_257! { alone:
    thousands_of_idle_connections_move_and_systemd_answers_meanwhile:
        on_257_thousands_of_idle_connections_move_and_systemd_answers_meanwhile;
}
