//! One example as an instance of its own, and what it has to live through.

use crate::in_flight::{DOWNLOAD_BYTES, InFlight, send};
use crate::measured::Measured;
use crate::table::{Example, KNOWN_MISSING, Slow};
use crate::world::container::Container;
use crate::world::load::{Counted, Load};
use crate::world::metrics::Scrape;
use crate::world::service::{get_unix, receive};
use crate::world::{Scratch, eventually, process, repository};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_mins(1);
/// What a request in flight may take, so that it outlasts the swap and not the drain.
const FLIGHT: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(12));
/// Until the load is up, beside them.
const LOAD: Duration = Duration::from_secs(2);

pub struct Instance<'a> {
    pub container: &'a Container,
    pub example: &'a Example,
    address: String,
}

impl<'a> Instance<'a> {
    pub fn new(container: &'a Container, example: &'a Example, number: u16) -> Self {
        let address = format!("127.0.0.1:{}", 9001 + number);
        Self {
            container,
            example,
            address,
        }
    }

    /// Why nobody expects it; who is expected and not there fails the test.
    pub fn is_known_missing(&self) -> Option<&'static str> {
        let known = KNOWN_MISSING.iter();
        let mut known = known.filter(|(name, _)| *name == self.example.name);
        known.next().map(|(_, why)| *why)
    }

    /// From its first deploy to its stop.
    pub fn live_and_stop(&self) -> Measured {
        let (name, container) = (self.example.name, self.container);
        let said = container.sh(&format!("{} 2>&1", self.example.runtime));
        let runtime = said.lines().next().unwrap_or_default().trim().to_owned();
        eprintln!("{name}: {runtime}");
        container.sh(&format!("gapless add {name} --listen {}", self.address));
        let long = self.first_version();
        let (swapped, deployed) = self.second_version(long);
        let (healed, killed) = self.heal();
        (self.example.also)(self);
        self.stop();
        Measured {
            runtime,
            swapped,
            requests: deployed.ok + killed.ok,
            lost: deployed.lost + killed.lost,
            healed,
            boot: Duration::ZERO,
        }
    }

    /// How long requests have to take that outlast a deploy.
    fn first_version(&self) -> Duration {
        self.put("v1");
        let began = Instant::now();
        self.container.sh(&self.deploy());
        let long = (LOAD + 3 * began.elapsed()).clamp(FLIGHT.0, FLIGHT.1);
        assert_eq!(self.version(), "v1");
        long
    }

    /// Under load, and with requests in flight that v1 has to answer.
    fn second_version(&self, long: Duration) -> (Duration, Counted) {
        self.put("v2");
        let mut in_flight = InFlight::begin(self, long);
        let load = self.load();
        let began = Instant::now();
        let swapped = std::thread::scope(|scope| {
            let deploy = scope.spawn(|| self.container.sh(&self.deploy()));
            self.until("v2 serves", |scrape| {
                (scrape.value("generation_live", &[]) == Some(2.0)).then_some(())
            });
            let swapped = Instant::now();
            in_flight.go_on();
            deploy.join().unwrap();
            swapped
        });
        let answered = in_flight.expect_answers("v1");
        assert!(answered > swapped, "{long:?} was too short for a deploy");
        assert_eq!(self.version(), "v2");
        load.run_for(Duration::from_secs(1));
        let counted = load.finish();
        counted.expect_nothing_lost().expect_nothing_closed();
        let seen: Vec<_> = counted.versions.keys().map(String::as_str).collect();
        assert_eq!(seen, ["v1", "v2"], "{counted:#?}");
        (swapped - began, counted)
    }

    /// SIGKILL of the app, while requests wait for it.
    fn heal(&self) -> (Duration, Counted) {
        let name = self.example.name;
        let workers = self.container.worker_pids_of(name);
        let [app] = workers.as_slice() else {
            panic!("one worker, not {workers:?}");
        };
        let waiting = (self.example.slow == Slow::Path).then(|| InFlight::begin(self, FLIGHT.0));
        let load = self.load();
        let began = Instant::now();
        self.container.kill("KILL", *app);
        self.until("another process is ready", |scrape| {
            let respawns = scrape.value("worker_respawns_total", &[("reason", "signal")]);
            let ready = scrape.value("generation_workers_ready", &[("generation", "2")]);
            (respawns == Some(1.0) && ready == Some(1.0)).then_some(())
        });
        let healed = began.elapsed();
        if let Some(waiting) = waiting {
            waiting.expect_answers("v2");
        }
        assert_eq!(self.version(), "v2");
        load.run_for(Duration::from_secs(1));
        let counted = load.finish();
        self.expect_only_begun_answers_lost(&counted);
        (healed, counted)
    }

    /// Whose answer had begun when the app died cannot have the rest of it; all others wait.
    fn expect_only_begun_answers_lost(&self, counted: &Counted) {
        let scrape = self.scrape();
        scrape.expect("swaps_total", &[], 2.0);
        scrape.expect("failed_starts_total", &[], 0.0);
        let mut begun = 0;
        for line in scrape.0.lines() {
            let Some(rest) = line.strip_prefix("gapless_requests_lost_total{cause=\"") else {
                continue;
            };
            let (cause, number) = rest.split_once("\"} ").unwrap();
            match cause {
                "app_died_mid_response" => begun = number.parse().unwrap(),
                _ => assert_eq!(number, "0", "{line}"),
            }
        }
        assert!(counted.lost <= begun, "{begun} had begun: {counted:#?}");
        assert!(counted.closed <= begun, "{begun} had begun: {counted:#?}");
    }

    /// With requests in flight and more coming: those are answered, and then nothing is left of it.
    fn stop(&self) {
        let name = self.example.name;
        let mut in_flight = InFlight::begin(self, FLIGHT.0);
        // Who comes after the end of the socket is refused, which is what a stop is.
        let _load = self.load();
        let unit = format!("gapless@{name}");
        std::thread::scope(|scope| {
            let stop = format!("stop {unit}.socket {unit}.service");
            let stopping = scope.spawn(move || self.container.systemctl(&stop));
            eventually("it is stopping", SOON, || {
                let state = self.property("ActiveState");
                ["deactivating", "inactive"]
                    .contains(&state.as_str())
                    .then_some(())
            });
            in_flight.go_on();
            stopping.join().unwrap();
        });
        in_flight.expect_answers("v2");
        assert_eq!(self.property("ActiveState"), "inactive");
        assert_eq!(self.property("NFileDescriptorStore"), "0");
        let left = self
            .container
            .try_sh(&format!("pgrep -a -u gapless-{name}"));
        assert_eq!(left.stdout, "", "it is stopped");
        self.container.connect(&self.address).unwrap_err();
    }

    /// After the reboot; how long it took to start.
    pub fn is_back(&self) -> Duration {
        let since = |name| {
            let micros = self.property(name).parse().unwrap_or(0);
            (micros > 0).then(|| Duration::from_micros(micros))
        };
        let ready = eventually(&format!("{} is up", self.example.name), SOON, || {
            let state = self.property("ActiveState");
            (state == "active").then(|| since("ActiveEnterTimestampMonotonic"))?
        });
        assert_eq!(self.version(), "v2", "{}", self.example.name);
        self.scrape().expect("swaps_total", &[], 3.0);
        ready.saturating_sub(since("InactiveExitTimestampMonotonic").unwrap())
    }

    /// Its directory inside, with this version in it, and built.
    fn put(&self, version: &str) {
        let (copy, example) = (Scratch::new(), self.example);
        let here = copy.0.join(example.name);
        copy_all(&repository("examples").join(example.directory), &here);
        let versioned = here.join(example.version_in);
        let text = std::fs::read_to_string(&versioned).unwrap();
        std::fs::write(&versioned, text.replace("v1", version)).unwrap();
        if example.slow == Slow::Download {
            let lines = format!("{version}\n").repeat(DOWNLOAD_BYTES / 3);
            std::fs::write(here.join("public/download"), lines).unwrap();
        }
        (example.build)(&here);
        let inside = self.container.reach(&format!("/srv/{}", example.name));
        copy_all(&here, &inside);
        if inside.join("Makefile").exists() {
            self.container.sh(&format!(
                "make --no-print-directory -C /srv/{} build",
                example.name
            ));
        }
    }

    /// As its README says.
    fn deploy(&self) -> String {
        let (name, arguments) = (self.example.name, self.example.arguments);
        let make = repository("examples")
            .join(self.example.directory)
            .join("Makefile");
        if arguments.is_empty() && make.exists() {
            format!("make --no-print-directory -C /srv/{name} hot_deploy APP={name} SUDO=")
        } else {
            format!("gapless --app {name} deploy /srv/{name} {arguments}")
        }
    }

    fn load(&self) -> Load {
        let kinds = match self.example.slow {
            Slow::Path => "get,slow,pipelined,new",
            Slow::Download => "get,pipelined,new",
        };
        let arguments = [
            "--plain",
            "--clients",
            "16",
            "--idle",
            "32",
            "--slow-ms",
            "1000",
        ];
        let arguments = [arguments.as_slice(), &["--kinds", kinds]].concat();
        self.container.load_at(&self.address, &arguments)
    }

    /// A request that somebody still has to read the answer of.
    pub fn ask(&self, path: &str) -> TcpStream {
        let connection = self.container.connect(&self.address).unwrap();
        send(&connection, path);
        connection
    }

    /// The page.
    #[track_caller]
    pub fn page(&self) -> String {
        let connection = self.ask("/");
        connection.set_read_timeout(Some(SOON)).unwrap();
        receive(connection).expect_ok()
    }

    #[track_caller]
    fn version(&self) -> String {
        let page = self.page();
        page.split_whitespace()
            .last()
            .unwrap_or_default()
            .to_owned()
    }

    fn scrape(&self) -> Scrape {
        let socket = format!("/run/gapless-control/{}.sock", self.example.name);
        Scrape(get_unix(&self.container.reach(&socket), "/metrics").expect_ok())
    }

    /// Until its metrics say so.
    #[track_caller]
    pub fn until<T>(&self, what: &str, question: impl Fn(&Scrape) -> Option<T>) -> T {
        let what = format!("{}: {what}", self.example.name);
        eventually(&what, SOON, || question(&self.scrape()))
    }

    /// A property of its service.
    fn property(&self, name: &str) -> String {
        let command = format!(
            "show --value -p {name} gapless@{}.service",
            self.example.name
        );
        self.container.systemctl(&command).trim().to_owned()
    }

    /// What a person needs to see when it failed.
    pub fn story(&self) -> String {
        let name = self.example.name;
        let status = self.container.try_sh(&format!("gapless status {name}"));
        let unit = format!("-u gapless@{name}.service");
        let ours = self.container.journal(&format!("-n 40 -t gapless {unit}"));
        let all = self.container.journal(&format!("-n 30 {unit}"));
        format!("{}\n{ours}\n{all}", status.output())
    }
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from.join(".")).arg(to);
    process::run(copy, SOON).expect_success();
}
