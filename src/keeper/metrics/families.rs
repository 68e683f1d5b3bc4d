//! Every metric: its name, what it says, where its value is.

use super::{Family, Labels, Row, Values, number};
use crate::api::{FrontStatus, Verdict};
use crate::keeper::death::Death;
use crate::keeper::plan::Generation;
use crate::keeper::status;
use crate::keeper::supervisor::{Keeper, now};
use crate::keeper::totals::Totals;
use crate::link::{Histogram, LIFECYCLE_BOUNDS, REQUEST_BOUNDS};
use crate::usage::{self, Usage};
use std::collections::BTreeMap;

const STATES: [&str; 7] = [
    "waiting", "starting", "settling", "settled", "live", "draining", "stopping",
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn family(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, help, values }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    family(name, help, Values::Counter(vec![(Labels::new(), value)]))
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
    family(name, help, Values::Gauge(vec![(Labels::new(), value)]))
}

fn by_cause(name: &'static str, help: &'static str, causes: &BTreeMap<String, u64>) -> Family {
    let row = |(cause, count): (&String, &u64)| (vec![("cause", cause.clone())], *count);
    family(
        name,
        help,
        Values::Counter(causes.iter().map(row).collect()),
    )
}

fn claim(is_true: bool) -> f64 {
    if is_true { 1.0 } else { 0.0 }
}

fn length(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}

impl Keeper {
    pub(super) fn families(&self) -> Vec<Family> {
        let totals = self.fronts.counters();
        let mut all = of_requests(&totals);
        all.extend(of_connections(&totals, &self.fronts.status()));
        all.extend(of_lifecycle(&totals));
        all.extend(self.of_state(&totals));
        all.extend(self.of_generations());
        all.extend(self.of_processes());
        all
    }

    fn of_state(&self, totals: &Totals) -> Vec<Family> {
        let outcome = self.memory.last_outcome.as_ref();
        let is_live = outcome.is_none_or(|outcome| outcome.verdict == Verdict::Live);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        vec![
            family(
                "build",
                "The running gapless",
                Values::Info(vec![("version", version)]),
            ),
            gauge(
                "keeper_start_time_seconds",
                "Unix time at which the keeper began or adopted",
                number(self.began_unix_seconds),
            ),
            gauge(
                "degraded",
                "1 while the restart budget is spent, so that tries grow rare",
                claim(self.memory.plan.is_degraded()),
            ),
            gauge(
                "last_reload_successful",
                "1 unless the last decided start or reload failed",
                claim(is_live),
            ),
            gauge(
                "last_reload_timestamp_seconds",
                "Unix time of that decision; 0 before the first",
                number(totals.decided_unix_seconds),
            ),
        ]
    }

    fn of_generations(&self) -> Vec<Family> {
        let of_state = |state: &'static str| {
            let all = self.memory.plan.generations();
            let here = all.filter(|g| status::phase_word(g.phase) == state);
            (vec![("state", state.to_owned())], length(here.count()))
        };
        let each = |labels: &dyn Fn(&Generation) -> Labels, value: &dyn Fn(&Generation) -> f64| {
            let row = |generation: &Generation| {
                let mut all = vec![("generation", generation.id.0.to_string())];
                all.extend(labels(generation));
                (all, value(generation))
            };
            Values::Gauge(self.memory.plan.generations().map(row).collect())
        };
        let plain = |_: &Generation| Labels::new();
        let ready = |g: &Generation| g.slots().filter(|(_, slot)| slot.is_ready()).count();
        let state = |g: &Generation| vec![("state", status::phase_word(g.phase).to_owned())];
        vec![
            family(
                "generations",
                "Generations by state",
                Values::Gauge(STATES.into_iter().map(of_state).collect()),
            ),
            gauge(
                "generation_live",
                "Number of the live generation; 0 for none",
                number(self.memory.plan.live().map_or(0, |live| live.id.0)),
            ),
            family(
                "generation_state",
                "1 for the state that a generation is in",
                each(&state, &|_| 1.0),
            ),
            family(
                "generation_age_seconds",
                "Time since a generation was begun",
                each(&plain, &|g| (now() - g.began).as_secs_f64()),
            ),
            family(
                "generation_requests_in_flight",
                "Requests and tunnels on a generation",
                each(&plain, &|g| number(self.fronts.leases(g.id))),
            ),
            family(
                "generation_workers",
                "Workers that a generation should have",
                each(&plain, &|g| number(g.terms.workers.into())),
            ),
            family(
                "generation_workers_ready",
                "Workers of a generation that requests may be sent to",
                each(&plain, &|g| length(ready(g))),
            ),
        ]
    }

    fn of_processes(&self) -> Vec<Family> {
        let all = self.processes();
        let gauge = |of: &dyn Fn(&Usage) -> Option<f64>| {
            let row = |(labels, usage): &Row<Usage>| Some((labels.clone(), of(usage)?));
            Values::Gauge(all.iter().filter_map(row).collect())
        };
        let cpu = |(labels, usage): &Row<Usage>| (labels.clone(), usage.cpu.as_secs_f64());
        vec![
            family(
                "process_memory_bytes",
                "Resident memory",
                gauge(&|usage| Some(number(usage.memory_bytes))),
            ),
            family(
                "process_cpu_seconds",
                "CPU time used since its start",
                Values::Time(all.iter().map(cpu).collect()),
            ),
            family(
                "process_threads",
                "Threads",
                gauge(&|usage| Some(number(usage.threads))),
            ),
            family(
                "process_open_fds",
                "Open file descriptors",
                gauge(&|usage| usage.fds.map(number)),
            ),
        ]
    }

    fn processes(&self) -> Vec<Row<Usage>> {
        let keeper = usage::of(std::process::id())
            .map(|usage| (vec![("process", "keeper".to_owned())], usage));
        let fronts = self.fronts.status().into_iter().filter_map(|front| {
            let labels = vec![
                ("process", "front".to_owned()),
                ("front", front.id.0.to_string()),
            ];
            Some((labels, front.usage?))
        });
        let workers = self.crews.iter().flat_map(|(id, crew)| {
            crew.pids_by_slot().filter_map(move |(slot, pid)| {
                let labels = vec![
                    ("process", "worker".to_owned()),
                    ("generation", id.0.to_string()),
                    ("worker", slot.0.to_string()),
                ];
                Some((labels, usage::of(pid)?))
            })
        });
        keeper.into_iter().chain(fronts).chain(workers).collect()
    }
}

fn of_requests(totals: &Totals) -> Vec<Family> {
    let counters = &totals.counters;
    let classes = CLASSES.into_iter().zip(counters.responses);
    let classes = classes.map(|(class, count)| (vec![("class", class.to_owned())], count));
    let durations = Histogram {
        counts: counters.duration_counts.clone(),
        micros: counters.duration_micros,
    };
    vec![
        family(
            "requests",
            "Finished requests by status class",
            Values::Counter(classes.collect()),
        ),
        by_cause(
            "requests_lost",
            "Requests lost by gapless or the app, by cause",
            &counters.lost,
        ),
        by_cause(
            "refusals",
            "Responses that gapless wrote itself, by cause",
            &counters.refusals,
        ),
        counter(
            "requests_held",
            "Requests that had to wait for a live generation",
            counters.held,
        ),
        counter("retries", "Requests sent a second time", counters.retries),
        counter(
            "access_log_dropped",
            "Entries of the access log that nobody took in time",
            counters.access_dropped,
        ),
        family(
            "request_duration_seconds",
            "Time from the whole request head to the end of the response",
            Values::Histogram(durations, &REQUEST_BOUNDS),
        ),
        family(
            "hold_duration_seconds",
            "Time that a request waited for a live generation",
            Values::Histogram(counters.hold.clone(), &REQUEST_BOUNDS),
        ),
    ]
}

fn of_connections(totals: &Totals, fronts: &[FrontStatus]) -> Vec<Family> {
    let counters = &totals.counters;
    let sum = |of: fn(&FrontStatus) -> u64| number(fronts.iter().map(of).sum());
    vec![
        counter(
            "connections_accepted",
            "Client connections accepted",
            counters.connections_accepted,
        ),
        counter(
            "connections_inherited",
            "Client connections taken over from an older front",
            counters.connections_inherited,
        ),
        by_cause(
            "connections_refused",
            "Connections closed before a request, to protect the others, by cause",
            &counters.connections_refused,
        ),
        counter(
            "tunnels_ended",
            "Tunnels told to end because their generation or front had to go",
            counters.tunnels_ended,
        ),
        gauge(
            "connections",
            "Open client connections",
            sum(|front| front.connections),
        ),
        gauge(
            "connections_settled",
            "Open client connections that would live on if their front died",
            sum(|front| front.settled),
        ),
        gauge(
            "tunnels",
            "Open client connections that switched protocols",
            sum(|front| front.tunnels),
        ),
        gauge(
            "requests_in_flight",
            "Requests in flight",
            sum(|front| front.in_flight),
        ),
        gauge(
            "requests_waiting",
            "Requests waiting for a live generation",
            sum(|front| front.held),
        ),
    ]
}

fn of_lifecycle(totals: &Totals) -> Vec<Family> {
    let known = totals.respawns_by.values().sum();
    // Those that a keeper counted which did not ask why.
    let unasked = totals.respawns.saturating_sub(known);
    let of_reason = |death: Death| {
        let count = totals.respawns_by.get(death.word()).copied().unwrap_or(0);
        let more = if death == Death::Unknown { unasked } else { 0 };
        (vec![("reason", death.word().to_owned())], count + more)
    };
    let lasted = |name, help, histogram: &Histogram| {
        family(
            name,
            help,
            Values::Histogram(histogram.clone(), &LIFECYCLE_BOUNDS),
        )
    };
    vec![
        family(
            "worker_respawns",
            "Workers started again after their death, by how the one before ended",
            Values::Counter(Death::ALL.into_iter().map(of_reason).collect()),
        ),
        counter(
            "front_deaths",
            "Fronts that ended though they were wanted",
            totals.front_deaths,
        ),
        counter("swaps", "Generations that went live", totals.swaps),
        counter(
            "failed_starts",
            "Generations that did not",
            totals.failed_starts,
        ),
        counter(
            "state_failures",
            "Times that the state for the next keeper could not be written",
            totals.state_failures,
        ),
        lasted(
            "boot_duration_seconds",
            "Time from the beginning of a generation until it was live",
            &totals.boot,
        ),
        lasted(
            "swap_duration_seconds",
            "Time from the decision to swap until every lane served from the new generation",
            &totals.swap,
        ),
        lasted(
            "drain_duration_seconds",
            "Time from a generation's end as the live one to that of its last request",
            &totals.drain,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also those deaths that an earlier keeper counted without asking why.
    #[test]
    fn each_respawn_is_counted_by_its_reason() {
        let mut totals = Totals::default();
        for (times, death) in (1..).zip(Death::ALL) {
            (0..times).for_each(|_| totals.respawned(death));
        }
        totals.respawns += 10;
        let families = of_lifecycle(&totals);
        let is_it = |family: &&Family| family.name == "worker_respawns";
        let Some(Values::Counter(rows)) = families.iter().find(is_it).map(|it| &it.values) else {
            panic!("{families:?}")
        };
        let told: Vec<_> = rows
            .iter()
            .map(|(labels, count)| (labels[0].0, labels[0].1.as_str(), *count))
            .collect();
        let reasons = ["exit", "signal", "oom", "watchdog", "health", "boot"];
        let mut expected: Vec<_> = reasons.into_iter().zip(1..).collect();
        expected.push(("unknown", 7 + 10));
        let expected = expected
            .into_iter()
            .map(|(word, count)| ("reason", word, count));
        assert_eq!(told, expected.collect::<Vec<_>>());
    }
}
