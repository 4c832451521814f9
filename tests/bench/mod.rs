//! The benchmark: what the real static binary takes, beside what DESIGN promises.
//!
//! What is promised is a budget (`budget`): the test fails when it is broken. What is not says as much about the machine as about
//! the agent; it is printed and never judged.

pub(crate) mod budget;
mod flash;
pub(crate) mod idle;
mod outage;
mod owned;
pub(crate) mod report;
mod size;
mod traffic;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::budget::Held;
use self::idle::Alone;
use self::report::{Figure, Marks};
use crate::agent::{CLUSTER, Setup};
use crate::apiserver::ApiServer;
use crate::memory::{peak_of_the_longest_lines, static_binary};
use crate::testbed::Testbed;
use crate::testbed::job::{Job, config_map};

/// Names the files that the table and its summary are written to; not written without them.
const WRITE_TO: &str = "PULLET_MEASUREMENTS";
const SUMMARY_TO: &str = "PULLET_SUMMARY";

/// Names the one part that is measured; no table is written then.
const ONLY: &str = "PULLET_BENCH";

const JOBS: usize = 1_000;

const SAMPLES: usize = 50;

const PATIENCE: Duration = Duration::from_secs(120);

/// What a part found out.
#[derive(Default)]
struct Found {
    figures: Vec<Figure>,
    /// What stands beneath the table.
    drawing: String,
}

impl<F: Into<Vec<Figure>>> From<F> for Found {
    fn from(figures: F) -> Self {
        Self { figures: figures.into(), drawing: String::new() }
    }
}

/// What a part found out, or will have.
enum Finding {
    Done(Found),
    /// It waits, and takes nothing from what is measured meanwhile.
    Waiting(Box<Alone>),
}

type Part = fn() -> Finding;

fn done(found: impl Into<Found>) -> Finding {
    Finding::Done(found.into())
}

#[test]
#[ignore = "needs the static binary: cross/build, then PULLET_STATIC; and a Kubernetes API server: KUBEBUILDER_ASSETS"]
fn what_the_agent_takes_is_within_the_promises() {
    let parts: [(&str, Part); 11] = [
        ("size", || done(size::figures())),
        ("start", || done([start_to_poll()])),
        ("idle", || Finding::Waiting(Box::new(Alone::begin()))),
        ("directory", || done(a_thousand_jobs_in_a_directory())),
        ("cluster", || done([a_thousand_jobs_in_a_cluster()])),
        ("hostile", || done([under_a_hostile_api_server()])),
        ("owned", || Finding::Done(owned::found())),
        ("latency", || done([latency()])),
        ("outage", || done(outage::figures())),
        ("flash", || done(flash::figures())),
        ("traffic", || done(traffic::figures())),
    ];
    let only = std::env::var(ONLY).ok();
    let wanted = parts.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name));
    let begun = Instant::now();
    let findings: Vec<Finding> = wanted
        .map(|(name, part)| {
            let finding = part();
            if let Finding::Done(found) = &finding {
                print(found);
            }
            #[allow(clippy::print_stderr, reason = "as above")]
            {
                eprintln!("{:5} s: {name}", begun.elapsed().as_secs());
            }
            finding
        })
        .collect();
    let (mut figures, mut drawings) = (Vec::new(), String::new());
    for finding in findings {
        let found = match finding {
            Finding::Done(found) => found,
            Finding::Waiting(alone) => {
                let found = alone.end().into();
                print(&found);
                found
            }
        };
        figures.extend(found.figures);
        drawings.push_str(&found.drawing);
    }
    assert!(!figures.is_empty(), "{ONLY} names no part of the benchmark: {only:?}");
    let table = [report::measured(), report::table(&figures)].concat();
    let summary = [report::measured(), report::summary(&figures)].concat();
    #[allow(clippy::print_stderr, reason = "the table is what a person runs this for")]
    {
        eprintln!("{table}\n{summary}\n{drawings}");
    }
    let place = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if only.is_none() {
        for (name, marks, text) in [(WRITE_TO, Marks::ALL, &table), (SUMMARY_TO, Marks::SUMMARY, &summary)] {
            if let Some(path) = place(name) {
                marks.write(&path, text);
            }
        }
    }
    // It stands by itself, and so can be written alone.
    if let Some(path) = place(WRITE_TO).filter(|_| !drawings.is_empty()) {
        Marks::DRAWN.write(&path, &[report::measured(), drawings].concat());
    }
    assert_eq!(report::broken(&figures), Vec::<String>::new(), "over their budget");
}

#[allow(clippy::print_stderr, reason = "it takes minutes, and whoever waits wants to see something")]
fn print(found: &Found) {
    for Figure { what, value, .. } in &found.figures {
        eprintln!("{what}: {value}");
    }
}

fn setup(testbed: &Testbed) -> Setup {
    setup_of(testbed, CLUSTER)
}

fn setup_of(testbed: &Testbed, cluster: &str) -> Setup {
    Setup::of_cluster(testbed, cluster).binary(static_binary()).flag("--wait", "240").flag("--log-level", "warn")
}

/// From the start of a registered agent to its first poll at the server, TLS handshake included.
fn start_to_poll() -> Figure {
    let testbed = Testbed::start();
    let setup = setup(&testbed).target_directory();
    let mut agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    agent.stop();
    let mut times: Vec<Duration> = (0..SAMPLES / 5)
        .map(|_| {
            let polls = testbed.counts().polls;
            let started = Instant::now();
            let mut agent = setup.spawn();
            while testbed.counts().polls == polls {
                std::thread::sleep(Duration::from_micros(200));
            }
            let time = started.elapsed();
            agent.stop();
            time
        })
        .collect();
    Figure::held(Held::Start, "start to the first poll at the server (median of 10)", milliseconds(middle(&mut times)))
}

fn a_thousand_jobs_in_a_directory() -> [Figure; 2] {
    let testbed = Testbed::start();
    let agent = setup(&testbed).target_directory().spawn();
    testbed.held_poll(PATIENCE);
    let started = Instant::now();
    work(&testbed);
    let took = started.elapsed();
    let peak = agent.rss_peak_kb();
    let rate = f64::from(u32::try_from(JOBS).unwrap()) / took.as_secs_f64();
    [
        Figure::seen("jobs per second, directory", format!("{rate:.0}")),
        Figure::held(Held::PeakOfJobsInDirectory, "peak RSS over 1,000 jobs, directory", kilobytes(peak)),
    ]
}

fn a_thousand_jobs_in_a_cluster() -> Figure {
    let api = ApiServer::shared();
    let testbed = Testbed::start();
    let agent = setup(&testbed).flag("--kubeconfig", api.kubeconfig()).flag("--allow-kind", "/ConfigMap").spawn();
    testbed.held_poll(PATIENCE);
    work(&testbed);
    let peak = agent.rss_peak_kb();
    Figure::held(Held::PeakOfJobs, "peak RSS over 1,000 jobs, cluster, three watches", kilobytes(peak))
}

/// The worst of what tests/it/memory.rs tries.
fn under_a_hostile_api_server() -> Figure {
    let what = "peak RSS, eight watches with lines of 0.9 MiB, objects of 3 MB";
    Figure::held(Held::PeakHostile, what, kilobytes(peak_of_the_longest_lines()))
}

fn work(testbed: &Testbed) {
    let jobs = (0..JOBS).map(|number| Job::apply(config_map("bench", &format!("c{number}"), "value")));
    for id in testbed.enqueue_all(CLUSTER, jobs) {
        assert_eq!(testbed.result_of(&id, PATIENCE)["outcome"], "succeeded");
    }
}

/// From the job's being there for the held poll to the object's being in the directory: the answer, the
/// ack and its answer, the write with its two flushes.
fn latency() -> Figure {
    let testbed = Testbed::start();
    // In memory: what a card takes is the card's.
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let [state, directory] = ["state", "applied"].map(|name| place.path().join(name));
    for directory in [&state, &directory] {
        fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
    }
    let setup = setup(&testbed).target_directory().without("--directory").flag("--directory", &directory);
    let _agent = setup.flag("--state-dir", &state).spawn();
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|number| {
            testbed.held_poll(PATIENCE);
            let objects = || fs::read_dir(&directory).map_or(0, Iterator::count);
            let before = objects();
            let started = Instant::now();
            let id = testbed.apply(CLUSTER, config_map("bench", &format!("c{number}"), "value"));
            while objects() == before {
                assert!(started.elapsed() < PATIENCE, "the object was not applied");
                std::thread::sleep(Duration::from_micros(100));
            }
            let time = started.elapsed();
            testbed.result_of(&id, PATIENCE);
            time
        })
        .collect();
    let what = "server's answer to applied object (loopback, directory on tmpfs; median of 50)";
    Figure::held(Held::Latency, what, milliseconds(middle(&mut times)))
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn kilobytes(kb: u64) -> f64 {
    f64::from(u32::try_from(kb).expect("it is no more than 4 TB"))
}
