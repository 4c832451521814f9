//! What an idle agent sends and receives, as it goes over the wire: TLS records as they are counted, and what TCP and IP
//! add to them. Packets are what the kernel counted for the connection where `ss` is there to ask it. Else, and where a
//! connection is made, they are computed and not fewer than they are: no acknowledgement rides on an answer.
//!
//! One cycle is measured at a hold of one second and reckoned up: a longer hold changes two characters of the request.
//! A heartbeat is measured from one to the next, less the poll that goes with it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::budget::{Held, Unit};
use super::report::Figure;
use super::{PATIENCE, setup};
use crate::agent::CLUSTER;
use crate::testbed::job::config_map;
use crate::testbed::{Call, Counts, Testbed};

/// Headers of IPv4 and of TCP with timestamps.
const HEADERS: f64 = 52.0;

/// What is in one packet at most, on Ethernet.
const SEGMENT: f64 = 1448.0;

/// Packets of a connection without content: three that open it and four that close it.
const BARE: f64 = 7.0;

const CYCLES: usize = 20;

/// What a hold of three digits is longer than one of one, in the request.
const DIGITS: f64 = 2.0;

pub(super) fn figures() -> Vec<Figure> {
    let cycle = cycle();
    let handshake = handshake();
    let heartbeat = heartbeat(&cycle);
    let hour = |hold: f64| 3600.0 / hold * (cycle.wire() + DIGITS);
    vec![
        Figure::seen("idle traffic per hour, polls alone, hold of 30 s", bytes(hour(30.0))),
        Figure::held(Held::Polls, "idle traffic per hour, polls alone, hold of 240 s", hour(240.0)),
        Figure::seen("idle traffic per hour, polls alone, hold of 300 s", bytes(hour(300.0))),
        Figure::held(Held::Heartbeats, "idle traffic per hour, heartbeats every 15 min on top", 4.0 * heartbeat.wire()),
        Figure::seen("one poll that brings nothing", cycle.to_string()),
        Figure::seen("one heartbeat, on the connection of the polls", heartbeat.to_string()),
        Figure::seen("one poll on a new connection", handshake.to_string()),
    ]
}

fn bytes(count: f64) -> String {
    Unit::Traffic.show(count)
}

/// Counts of a moment.
struct Moment {
    counts: Counts,
    /// Both ways, of the connections that are open.
    packets: Option<u32>,
}

impl Moment {
    fn now(testbed: &Testbed) -> Self {
        // What is about it is over as well: an acknowledgement may wait for 40 ms.
        std::thread::sleep(Duration::from_millis(200));
        Self { counts: testbed.counts(), packets: packets(testbed) }
    }
}

/// What the kernel counted on the testbed's side.
fn packets(testbed: &Testbed) -> Option<u32> {
    let endpoint = testbed.endpoint();
    let (_, port) = endpoint.rsplit_once(':')?;
    let port = format!("sport = :{}", port.split('/').next()?);
    let output = Command::new("ss").args(["-tinHO", "state", "established", &port]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counts: Vec<u32> = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("segs_out:").or_else(|| word.strip_prefix("segs_in:"))?.parse().ok())
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
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
    /// What came between two moments, divided by `times`.
    fn between(before: &Moment, after: &Moment, times: usize) -> Self {
        let times = f64::from(u32::try_from(times).unwrap());
        let part = |before: u64, after: u64| f64::from(u32::try_from(after - before).unwrap()) / times;
        let count = |before: usize, after: usize| part(before as u64, after as u64);
        let (packets, (before, after)) = (before.packets.zip(after.packets), (before.counts, after.counts));
        let (sent, received) =
            (part(before.bytes_received, after.bytes_received), part(before.bytes_sent, after.bytes_sent));
        let connections = count(before.connections, after.connections);
        let packets = match packets {
            Some((before, after)) if connections == 0.0 => f64::from(after - before) / times,
            // Each with content is acknowledged by one without.
            _ => {
                let full = ((sent + received) / SEGMENT).floor();
                2.0 * (part(before.pieces, after.pieces) + full) + BARE * connections
            }
        };
        Self { sent, received, packets, connections, resumed: count(before.resumed, after.resumed) }
    }

    fn less(self, other: &Self) -> Self {
        Self {
            sent: self.sent - other.sent,
            received: self.received - other.received,
            packets: self.packets - other.packets,
            ..self
        }
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
    let before = Moment::now(&testbed);
    testbed.polls(before.counts.polls + CYCLES, PATIENCE);
    let after = Moment::now(&testbed);
    Wire::between(&before, &after, after.counts.polls - before.counts.polls)
}

/// A poll whose connection was cut: a whole handshake or a resumed one, whichever the agent makes of it.
fn handshake() -> Wire {
    let testbed = Testbed::start();
    let _agent = setup(&testbed).target_directory().without("--wait").flag("--wait", "60").spawn();
    testbed.held_poll(PATIENCE);
    std::thread::sleep(Duration::from_secs(3));
    let before = Moment::now(&testbed);
    testbed.cut_connections();
    testbed.polls(before.counts.polls + 1, PATIENCE);
    testbed.held_poll(PATIENCE);
    Wire::between(&before, &Moment::now(&testbed), 1)
}

/// From one heartbeat's coming to the next one's, less the poll that ended in between.
fn heartbeat(cycle: &Wire) -> Wire {
    let testbed = Testbed::start();
    let mut setup = setup(&testbed).target_directory().without("--wait").flag("--wait", "300");
    let file = setup.home().join("bench.toml");
    fs::write(&file, "heartbeat_interval = 60\n").unwrap();
    setup = setup.flag("--config", &file);
    let _agent = setup.spawn();
    testbed.held_poll(PATIENCE);
    // The first sign of life follows the first answer.
    // A month has had more bytes than a minute brings: the heartbeat says so when they have grown by a tenth.
    let id = testbed.apply(CLUSTER, config_map("bench", "c", &"x".repeat(100_000)));
    testbed.result_of(&id, PATIENCE);
    testbed.held_poll(PATIENCE);
    let heartbeats = |count: usize| {
        let is_there = |state: &crate::testbed::State| {
            (state.requests.iter().filter(|seen| seen.call == Some(Call::Events)).count() >= count).then_some(())
        };
        testbed.wait_for("a heartbeat", Duration::from_secs(150), is_there);
        // The connection that posted the result is forgotten, and the next poll has begun.
        testbed.held_poll(PATIENCE);
        std::thread::sleep(Duration::from_secs(3));
        Moment::now(&testbed)
    };
    // The first one is whole; those of every quarter of an hour are not.
    let (before, after) = (heartbeats(2), heartbeats(3));
    assert_eq!(before.counts.polls + 1, after.counts.polls, "a heartbeat goes out between two polls");
    assert_eq!(before.counts.connections, after.counts.connections, "a heartbeat needs no connection of its own");
    Wire::between(&before, &after, 1).less(cycle)
}
