//! What an idle agent sends and receives, as it goes over the wire: TLS records as they are counted, and what TCP and IP
//! add to them, which is computed and not less than it is: no acknowledgement rides on an answer.
//!
//! One cycle is measured at a hold of one second and reckoned up: a longer hold changes two characters of the request.
//! A heartbeat is measured whole, from one to the next, with the connection that it opens.

use std::fs;
use std::time::Duration;

use super::{Figure, PATIENCE, setup};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Counts, Testbed};

/// The promises are 7 kB and 5 kB, and neither is kept yet (docs/decisions/0014): these are what is measured, and must not get
/// worse.
const POLLS_BYTES: f64 = 11_000.0;
const HEARTBEATS_BYTES: f64 = 17_000.0;

/// Headers of IPv4 and of TCP with timestamps.
const HEADERS: f64 = 52.0;

/// What is in one packet at most, on Ethernet.
const SEGMENT: f64 = 1448.0;

/// Packets of a connection without content: three that open it and four that close it.
const BARE: f64 = 7.0;

const CYCLES: usize = 20;

pub(super) fn figures() -> Vec<Figure> {
    let cycle = cycle();
    let handshake = handshake();
    let heartbeat = heartbeat();
    let mut figures: Vec<Figure> = [
        (30.0, "idle traffic per hour, polls alone, hold of 30 s", None),
        (240.0, "idle traffic per hour, polls alone, hold of 240 s", Some(POLLS_BYTES)),
        (300.0, "idle traffic per hour, polls alone, hold of 300 s", None),
    ]
    .map(|(hold, what, most)| {
        let hour = 3600.0 / hold * cycle.wire();
        Figure {
            what,
            value: bytes(hour),
            promise: if most.is_some() { "7 kB or less: NOT kept; 11 kB until it is" } else { "–" },
            holds: most.map(|most| hour <= most),
        }
    })
    .into();
    let hour = 4.0 * heartbeat.wire();
    figures.extend([
        Figure {
            what: "idle traffic per hour, heartbeats every 15 min on top",
            value: bytes(hour),
            promise: "5 kB or less: NOT kept; 17 kB until it is",
            holds: Some(hour <= HEARTBEATS_BYTES),
        },
        Figure { what: "one poll that brings nothing", value: cycle.to_string(), promise: "–", holds: None },
        Figure {
            what: "one heartbeat, its connection included",
            value: heartbeat.to_string(),
            promise: "–",
            holds: None,
        },
        Figure { what: "one poll on a new connection", value: handshake.to_string(), promise: "–", holds: None },
    ]);
    figures
}

fn bytes(count: f64) -> String {
    format!("{:.1} kB", count / 1000.0)
}

/// What went over the wire.
struct Wire {
    sent: f64,
    received: f64,
    packets: f64,
    connections: f64,
    resumed: f64,
}

impl Wire {
    /// What came between two counts, divided by `times`. Each packet with content is acknowledged by one without, unless
    /// one with content goes back in time: of those nothing is taken off.
    fn between(before: Counts, after: Counts, times: usize) -> Self {
        let times = f64::from(u32::try_from(times).unwrap());
        let part = |before: u64, after: u64| f64::from(u32::try_from(after - before).unwrap()) / times;
        let count = |before: usize, after: usize| part(before as u64, after as u64);
        let (sent, received) =
            (part(before.bytes_received, after.bytes_received), part(before.bytes_sent, after.bytes_sent));
        let pieces = part(before.pieces, after.pieces);
        let connections = count(before.connections, after.connections);
        let full = ((sent + received) / SEGMENT).floor();
        let packets = 2.0 * (pieces + full) + BARE * connections;
        Self { sent, received, packets, connections, resumed: count(before.resumed, after.resumed) }
    }

    fn wire(&self) -> f64 {
        self.sent + self.received + self.packets * HEADERS
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, received, packets, connections, resumed } = self;
        write!(f, "{:.0} bytes: {sent:.0} up, {received:.0} down, {packets:.1} packets of 52 more", self.wire())?;
        if *connections > 0.0 {
            write!(f, "; {connections:.1} connections, {resumed:.1} resumed")?;
        }
        Ok(())
    }
}

/// From one poll's coming to the next one's.
fn cycle() -> Wire {
    let testbed = Testbed::start();
    let _agent = setup(&testbed).target_directory().without("--wait").flag("--wait", "1").spawn();
    // The first ones are not like the others: a heartbeat goes out beside them.
    let start = 5;
    testbed.polls(start, PATIENCE);
    let before = testbed.counts();
    testbed.polls(before.polls + CYCLES, PATIENCE);
    let after = testbed.counts();
    Wire::between(before, after, after.polls - before.polls)
}

/// A poll whose connection was cut: a whole handshake or a resumed one, whichever the agent makes of it.
fn handshake() -> Wire {
    let testbed = Testbed::start();
    let _agent = setup(&testbed).target_directory().without("--wait").flag("--wait", "60").spawn();
    testbed.held_poll(PATIENCE);
    std::thread::sleep(Duration::from_secs(3));
    let before = testbed.counts();
    testbed.cut_connections();
    testbed.polls(before.polls + 1, PATIENCE);
    testbed.held_poll(PATIENCE);
    Wire::between(before, testbed.counts(), 1)
}

/// From one heartbeat's coming to the next one's, with a poll that is held all the while.
fn heartbeat() -> Wire {
    let testbed = Testbed::start();
    let mut setup = setup(&testbed).target_directory().without("--wait").flag("--wait", "300");
    let file = setup.home().join("bench.toml");
    fs::write(&file, "heartbeat_interval = 60\n").unwrap();
    setup = setup.flag("--config", &file);
    let _agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    // The first sign of life follows the first answer.
    let id = testbed.apply(CLUSTER, config_map("bench", "c", "value"));
    testbed.result_of(&id, PATIENCE);
    testbed.held_poll(PATIENCE);
    let heartbeats = |count: usize| {
        let is_there = |state: &crate::testbed::State| {
            (state.requests.iter().filter(|seen| seen.call == Some(Call::Events)).count() >= count).then_some(())
        };
        testbed.wait_for("a heartbeat", Duration::from_secs(150), is_there);
        // What is about it is over as well.
        std::thread::sleep(Duration::from_secs(3));
        testbed.counts()
    };
    let (before, after) = (heartbeats(1), heartbeats(2));
    assert_eq!(before.polls, after.polls, "the poll was held meanwhile");
    Wire::between(before, after, 1)
}
