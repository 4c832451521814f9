//! An agent that has nothing to do: a poll is held, three watches are open, and it is left alone for a while. What it takes
//! meanwhile, as the kernel and the API server count it.
//!
//! A wake-up is a voluntary context switch: a thread had nothing to do, waited, and was woken. They are summed over all
//! threads, also over those that came and went. Within the time there are one end of a poll, one end of each watch (after
//! 290 s) and one heartbeat, each with what follows from it; per minute they are fewer in a longer time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::budget::Held;
use super::report::Figure;
use super::{PATIENCE, setup};
use crate::agent::Agent;
use crate::apiserver::{ApiServer, COUNTED, wait_until};
use crate::testbed::Testbed;

/// So long it is left alone: a poll and a watch end.
const ALONE: Duration = Duration::from_mins(5);

/// How often the threads are looked at, which wakes none of them. What one does after the last look before its end is not seen.
const LOOK: Duration = Duration::from_millis(100);

/// An agent that is being left alone. Both servers are its own, so that what else is measured meanwhile is none of its business; and it
/// takes no processor time that the others would miss.
pub(super) struct Alone {
    // It ends with this value, also where another part of the benchmark fails.
    _agent: Agent,
    testbed: Testbed,
    memory: u64,
    threads: u64,
    looking: JoinHandle<Meanwhile>,
}

/// What happened meanwhile.
struct Meanwhile {
    minutes: f64,
    wakes: u64,
    calls: Vec<String>,
    /// Files.
    changed: u64,
}

impl Alone {
    /// Returns once nothing goes on any more.
    pub(super) fn begin() -> Self {
        let api = ApiServer::start();
        api.apply_crds();
        let testbed = Testbed::start();
        let kubeconfig = api.kubeconfig_for(COUNTED, "system:masters");
        let agent = setup(&testbed).flag("--kubeconfig", kubeconfig).flag("--allow-kind", "/ConfigMap").spawn();
        testbed.held_poll(PATIENCE);
        // One thread runs the agent, one holds the poll, one each watch; those of the start end after a while.
        std::thread::sleep(Duration::from_secs(5));
        wait_until("the poll and three watches and nothing else", || agent.threads() == 5);
        let (memory, threads) = (agent.rss_kb(), agent.threads());
        let (process, state_dir) = (agent.pid(), agent.state_dir());
        let looking = std::thread::spawn(move || look(process, &api, &state_dir));
        Self { _agent: agent, testbed, memory, threads, looking }
    }

    /// Waits until the time is over.
    pub(super) fn end(self) -> Vec<Figure> {
        let Self { _agent, testbed, memory, threads, looking } = self;
        let Meanwhile { minutes, wakes, calls, changed } = looking.join().expect("it ran all the time");
        assert_eq!(testbed.violations(), Vec::<String>::new());
        vec![
            Figure::held(Held::IdleMemory, "RSS idle: poll held, three watches open", number(memory)),
            Figure::held(Held::Threads, "threads idle", number(threads)),
            Figure::held(Held::WakeUps, "wake-ups a minute, idle for 5 minutes", number(wakes) / minutes)
                .along(&format!("{wakes} in all")),
            Figure::held(Held::ApiWritesIdle, "writes to the API server, idle for 5 minutes", number(writes(&calls)))
                .along(&format!("{} reads", number(calls.len() as u64) - number(writes(&calls)))),
            Figure::held(Held::FlashIdle, "files of the state directory written, idle for 5 minutes", number(changed)),
        ]
    }
}

fn look(process: u32, api: &ApiServer, state_dir: &Path) -> Meanwhile {
    let (asked, files) = (api.asked().len(), written(state_dir));
    let (mut wakes, begin) = (Wakes::of(process), Instant::now());
    while begin.elapsed() < ALONE {
        std::thread::sleep(LOOK);
        wakes.look(process);
    }
    Meanwhile {
        minutes: begin.elapsed().as_secs_f64() / 60.0,
        wakes: wakes.count,
        calls: api.asked().split_off(asked),
        changed: changes(&files, &written(state_dir)),
    }
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("a count of some minutes"))
}

/// Of what was asked of the API server, what changes something there.
pub(crate) fn writes(calls: &[String]) -> u64 {
    let reads = ["get ", "list ", "watch "];
    calls.iter().filter(|call| !reads.iter().any(|verb| call.starts_with(verb))).count() as u64
}

/// When each file of a directory was last written.
type Written = BTreeMap<std::path::PathBuf, SystemTime>;

pub(crate) fn written(directory: &Path) -> Written {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::metadata(path).unwrap().modified().unwrap())).collect()
}

/// Files that were written, made or removed in between.
pub(crate) fn changes(before: &Written, after: &Written) -> u64 {
    let gone = before.keys().filter(|path| !after.contains_key(*path)).count();
    let new = after.iter().filter(|(path, at)| before.get(*path) != Some(at)).count();
    (gone + new) as u64
}

/// Voluntary context switches of each thread that was seen.
pub(crate) struct Wakes {
    seen: BTreeMap<String, u64>,
    pub(crate) count: u64,
}

impl Wakes {
    fn of(process: u32) -> Self {
        Self { seen: switches(process).into_iter().collect(), count: 0 }
    }

    fn look(&mut self, process: u32) {
        self.add(switches(process));
    }

    /// A thread that is new has begun at nothing.
    pub(crate) fn add(&mut self, now: impl IntoIterator<Item = (String, u64)>) {
        for (thread, count) in now {
            let before = self.seen.insert(thread, count).unwrap_or(0);
            self.count += count.saturating_sub(before);
        }
    }

    #[cfg(test)]
    pub(crate) fn from(seen: &[(&str, u64)]) -> Self {
        Self { seen: seen.iter().map(|(thread, count)| ((*thread).to_owned(), *count)).collect(), count: 0 }
    }
}

/// Of the threads that there are.
fn switches(process: u32) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the agent is running");
    let of = |thread: fs::DirEntry| {
        // One may end between the two.
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((thread.file_name().to_string_lossy().into_owned(), count.trim().parse().ok()?))
    };
    threads.flatten().filter_map(of).collect()
}
