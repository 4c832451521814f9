//! What it costs that much is owned: memory and calls of the API server against the number of objects, at the start, at rest,
//! and in storms of conditions. Calls are those that the API server itself has in its audit log.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::budget::{Budget, Held, Unit};
use super::report::Figure;
use super::{Found, PATIENCE, kilobytes, setup_of};
use crate::agent::Agent;
use crate::apiserver::{ApiServer, COUNTED, wait_until};
use crate::testbed::Testbed;
use crate::thousand::{make, storm, told};

/// Objects, and what the figures about them are called.
const CURVE: [(usize, [&str; 3]); 3] = [
    (
        10,
        [
            "peak RSS, 10 owned objects, 3 storms of conditions",
            "API calls in 20 s at rest, 10 owned objects",
            "API calls amid 3 storms, 10 owned objects",
        ],
    ),
    (
        100,
        [
            "peak RSS, 100 owned objects, 3 storms of conditions",
            "API calls in 20 s at rest, 100 owned objects",
            "API calls amid 3 storms, 100 owned objects",
        ],
    ),
    (
        1_000,
        [
            "peak RSS, 1,000 owned objects, 3 storms of conditions",
            "API calls in 20 s at rest, 1,000 owned objects",
            "API calls amid 3 storms, 1,000 owned objects",
        ],
    ),
];

const STORMS: usize = 3;

const REST: Duration = Duration::from_secs(20);

/// Objects on a page of a list.
const PAGE: usize = pullet::limits::LIST_PAGE as usize;

/// Lists of all objects where events were lost: they are read once more, and no second time within this measurement.
const RECALLS: usize = 1;

/// What was measured at one number of objects.
struct Point {
    objects: usize,
    /// Calls from the start until all is told.
    start: usize,
    rest_kb: u64,
    rest: usize,
    storm: usize,
    /// Events that were lost amid the storms, as the agent itself counts them.
    lost: u64,
    /// From the start of the agent to the end of the storms.
    took: Duration,
    after_kb: u64,
    peak_kb: u64,
}

pub(super) fn found() -> Found {
    let api = &ApiServer::start();
    api.apply_crds();
    let points = CURVE.map(|(objects, _)| point(api, objects));
    let mut figures = Vec::new();
    for (point, (objects, [peak, rest, storm])) in points.iter().zip(CURVE) {
        // A machine that is slow may lose some; without a loss no call comes with an object. And a watch has an end of its own.
        let lists = if point.lost == 0 { 0 } else { RECALLS * objects.div_ceil(PAGE) };
        let watches = if point.lost > 0 || point.took >= pullet::limits::WATCH_TIMEOUT { WATCHES_ANEW } else { 0 };
        let most = lists + watches;
        let amid =
            Budget { about: storm.to_owned(), most: number(most), unit: Unit::Count, promised: None, is_told: false };
        let memory = format!("{} kB at rest before, {} after", point.rest_kb, point.after_kb);
        figures.extend([
            Figure::held(Held::PeakOfOwned, peak, kilobytes(point.peak_kb)).along(&memory),
            Figure::held(Held::ApiCallsAtRest, rest, number(point.rest)),
            Figure::by(amid, storm, number(point.storm))
                .along(&format!("for no object; {} events lost, after which all are listed once more", point.lost)),
        ]);
    }
    Found { figures, drawing: drawing(&points) }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a count of calls"))
}

/// Where all is listed once more, a watch follows; and where one comes to its end.
const WATCHES_ANEW: usize = 3;

fn point(api: &ApiServer, objects: usize) -> Point {
    let (testbed, cluster) = (Testbed::start(), format!("owns-{objects}"));
    make(api, &cluster, &cluster, objects);
    storm(api, &cluster, objects, "False", "Present");
    let asked = || api.asked().len();
    let lost = |agent: &Agent| -> u64 {
        let status: Value = serde_json::from_slice(&fs::read(agent.status_file()).unwrap()).unwrap();
        status["buffer"]["lost"].as_u64().unwrap()
    };
    let (begin, began) = (asked(), Instant::now());
    let kubeconfig = api.kubeconfig_for(COUNTED, "system:masters");
    let mut agent =
        setup_of(&testbed, &cluster).flag("--kubeconfig", kubeconfig).flag("--allow-kind", "/ConfigMap").spawn();
    testbed.held_poll(PATIENCE);
    told(&testbed, objects, "Present");
    // What the start took ends after a while: threads, and the log of the API server.
    std::thread::sleep(Duration::from_secs(5));
    wait_until("the poll and three watches and nothing else", || agent.threads() == 5);
    let (start, rest_kb) = (asked() - begin, agent.rss_kb());
    std::thread::sleep(REST);
    let rest = asked() - begin - start;
    let lost_before = lost(&agent);
    for number in 1..=STORMS {
        storm(api, &cluster, objects, if number % 2 == 0 { "False" } else { "True" }, &format!("Storm{number}"));
    }
    told(&testbed, objects, &format!("Storm{STORMS}"));
    std::thread::sleep(Duration::from_secs(5));
    let storm = asked() - begin - start - rest;
    let lost = lost(&agent) - lost_before;
    let (took, after_kb, peak_kb) = (began.elapsed(), agent.rss_kb(), agent.rss_peak_kb());
    let point = Point { objects, start, rest_kb, rest, storm, lost, took, after_kb, peak_kb };
    agent.stop();
    assert_eq!(testbed.violations(), Vec::<String>::new());
    point
}

/// The curve: a line for each number of objects, each ten times the one above.
fn drawing(points: &[Point]) -> String {
    let mut text = format!(
        "\nAgainst the number of owned objects (ApplicationInstances with one condition, three kinds watched; each storm gives each of \
         them another condition, {STORMS} storms; one mark stands for 200 kB, or for 2 calls):\n\n```text\n"
    );
    let mut lines = |title: &str, one: u64, value: fn(&Point) -> u64, unit: &str| {
        let _ = writeln!(text, "{title}");
        for point in points {
            let value = value(point);
            let marks = usize::try_from(value.div_ceil(one)).unwrap();
            let _ = writeln!(text, "{:>7} |{} {value}{unit}", point.objects, "#".repeat(marks));
        }
    };
    lines("RSS at rest", 200, |point| point.rest_kb, " kB");
    lines("RSS at rest after the storms", 200, |point| point.after_kb, " kB");
    lines("RSS at its peak", 200, |point| point.peak_kb, " kB");
    lines("API calls at the start, until all of the present is told", 2, |point| point.start as u64, "");
    lines("API calls in 20 s at rest", 2, |point| point.rest as u64, "");
    lines("API calls amid the storms", 2, |point| point.storm as u64, "");
    text.push_str("```\n");
    text
}
