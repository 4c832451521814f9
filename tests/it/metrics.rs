//! What the agent tells machines: `/metrics`, `/healthz`, `/readyz`, on loopback or on a socket in the file system.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{Agent, Setup};
use crate::apiserver::ApiServer;
use crate::scene::{LATER, SOON, Scene, apply, quick, says, succeeds};
use crate::testbed::{Call, Clients, Fault, Options, Testbed};

/// As `limits::METRICS_HEAD_BYTES`.
const HEAD: usize = 4_096;

/// As `limits::METRICS_PATIENCE`, and a little for the machine.
const PATIENCE: Duration = Duration::from_secs(15);

fn metered(setup: Setup) -> Setup {
    setup.flag("--metrics", "127.0.0.1:0")
}

/// Where this agent answers: it takes a port that is free.
fn place(agent: &Agent) -> String {
    agent.wait_for_log("metrics and probes are answered", SOON);
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("metrics and probes are answered")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    line["address"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn connect(place: &str) -> TcpStream {
    let stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Status and body.
fn answer(mut stream: impl Read) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
}

fn say(place: &str, request: &[u8]) -> (u16, String) {
    let mut stream = connect(place);
    stream.write_all(request).unwrap();
    answer(stream)
}

fn get(place: &str, path: &str) -> (u16, String) {
    say(place, format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nAccept: */*\r\n\r\n").as_bytes())
}

/// The samples of a page, each by its name with its labels.
fn samples(page: &str) -> BTreeMap<String, i64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn scrape(place: &str) -> BTreeMap<String, i64> {
    let (status, page) = get(place, "/metrics");
    assert_eq!(status, 200, "{page}");
    samples(&page)
}

const CONNECTIVITY: &str = "vworkspace_operator_connectivity_state{mode=\"pull\"}";

fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LATER;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "waited in vain for {what}: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn until_sample(place: &str, name: &str, fits: impl Fn(i64) -> bool) -> BTreeMap<String, i64> {
    until(name, || {
        let found = scrape(place);
        if found.get(name).is_some_and(|value| fits(*value)) { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

fn until_probe(place: &str, path: &str, status: u16, words: &str) {
    until(path, || {
        let (found, line) = get(place, path);
        assert_eq!(line.lines().count(), 1, "{line}");
        if found == status && line.contains(words) { Ok(()) } else { Err(format!("{found} {line}")) }
    });
}

#[test]
fn a_scrape_tells_what_was_done_and_the_probes_that_all_is_well() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    assert_eq!(get(&place, "/healthz"), (200, "ok\n".to_owned()));
    until_probe(&place, "/readyz", 200, "ok");
    let job = scene.apply("one");
    succeeds(&scene.testbed, &job, SOON);
    let refused = scene.testbed.apply(
        crate::agent::CLUSTER,
        serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "clinic"}
        }),
    );
    scene.testbed.result_of(&refused, SOON);
    let found = until_sample(&place, "pullet_results_total{outcome=\"failed\"}", |count| count > 0);
    for (name, value) in [
        (CONNECTIVITY, 1),
        ("vworkspace_operator_applied_jobs_total", 1),
        ("vworkspace_operator_pull_job_lag_seconds", 0),
        ("pullet_results_total{outcome=\"succeeded\"}", 1),
        ("pullet_results_total{outcome=\"failed\"}", 1),
        ("pullet_results_total{outcome=\"conflict\"}", 0),
        ("pullet_jobs_refused_total", 1),
        ("pullet_jobs_open", 0),
        ("pullet_poll_hold_seconds", 1),
        ("pullet_polls_total{result=\"failed\"}", 0),
        ("pullet_events_lost_total", 0),
        ("pullet_journal_has_room", 1),
        ("pullet_signatures_required", 0),
        (concat!("pullet_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}: {found:?}");
    }
    for name in [
        "pullet_polls_total{result=\"answered\"}",
        "pullet_bytes_total{peer=\"control_plane\",direction=\"sent\"}",
        "pullet_bytes_total{peer=\"control_plane\",direction=\"received\"}",
        "pullet_month_bytes",
        "pullet_flash_writes_total",
        "pullet_flash_syncs_total",
        "pullet_memory_bytes",
        "pullet_last_answer_timestamp_seconds",
    ] {
        assert!(found.get(name).is_some_and(|value| *value > 0), "{name}: {found:?}");
    }
    assert!((0..120).contains(&found["vworkspace_operator_credential_age_seconds"]), "{found:?}");
}

#[test]
fn an_outage_is_told_while_it_lasts_and_a_short_one_keeps_the_agent_ready() {
    let mut scene = Scene::with(metered);
    let place = place(&scene.agent);
    until_sample(&place, CONNECTIVITY, |state| state == 1);
    scene.testbed.down();
    let found = until_sample(&place, CONNECTIVITY, |state| state == 0);
    assert!(found["pullet_polls_total{result=\"failed\"}"] >= 1, "{found:?}");
    assert_eq!((get(&place, "/readyz").0, get(&place, "/healthz").0), (200, 200));
    scene.testbed.up();
    until_sample(&place, CONNECTIVITY, |state| state == 1);

    scene.testbed.fault_until_cleared(Call::Jobs, Fault::status(403));
    until_probe(&place, "/readyz", 503, "403");
    assert_eq!(scrape(&place)[CONNECTIVITY], 0);
    assert_eq!(get(&place, "/healthz").0, 200, "a start anew would not help");
}

#[test]
fn a_job_that_is_fetched_and_cannot_be_acked_lags() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    scene.testbed.fault_until_cleared(Call::Ack, Fault::status(503));
    let job = scene.apply("late");
    until_sample(&place, "vworkspace_operator_pull_job_lag_seconds", |lag| (1..100).contains(&lag));
    scene.testbed.clear_faults();
    succeeds(&scene.testbed, &job, LATER);
    until_sample(&place, "vworkspace_operator_pull_job_lag_seconds", |lag| lag == 0);
}

#[test]
#[ignore = "needs a Kubernetes API server: set KUBEBUILDER_ASSETS (tests/run does)"]
fn an_api_server_that_is_away_makes_the_agent_unready_and_not_unhealthy() {
    let api = ApiServer::start();
    let testbed = Testbed::start();
    let setup = metered(Setup::of_cluster(&testbed, "away").flag("--kubeconfig", api.kubeconfig()));
    let agent = setup.flag("--allow-kind", "/ConfigMap").flag("--wait", "1").spawn();
    let place = place(&agent);
    until_probe(&place, "/readyz", 200, "ok");
    // The definitions of the other two are not installed.
    let found = until_sample(&place, "pullet_kinds_troubled", |count| count == 2);
    assert_eq!(found["pullet_kinds"], 3);
    assert!(found["pullet_bytes_total{peer=\"cluster\",direction=\"received\"}"] > 0);
    api.stop();
    until_probe(&place, "/readyz", 503, "the target cannot be reached");
    assert_eq!(get(&place, "/healthz").0, 200);
    api.resume();
    until_probe(&place, "/readyz", 200, "ok");
}

#[test]
fn a_directory_that_is_away_makes_the_agent_unready_and_one_in_its_place_is_used() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    until_probe(&place, "/readyz", 200, "ok");
    let (directory, aside) = (scene.agent.directory(), scene.agent.directory().with_extension("aside"));
    fs::rename(&directory, &aside).unwrap();
    until_probe(&place, "/readyz", 503, "jobs cannot be written into directory");
    assert_eq!(get(&place, "/healthz").0, 200);
    let job = scene.apply("waits");
    scene.agent.wait_for_log("the job is not done yet; it is tried again", SOON);
    fs::create_dir(&directory).unwrap();
    succeeds(&scene.testbed, &job, LATER);
    until_probe(&place, "/readyz", 200, "ok");
    assert_eq!((fs::read_dir(&directory).unwrap().count(), fs::read_dir(&aside).unwrap().count()), (1, 0));
    assert_eq!(scene.agent.log().matches("the job is not done yet").count(), 1, "it is said once");
}

#[test]
fn who_is_not_registered_lives_and_is_not_ready() {
    let testbed = Testbed::start();
    testbed.fault_until_cleared(Call::Register, Fault::status(503));
    let agent = metered(quick(&testbed)).spawn();
    let place = place(&agent);
    until_probe(&place, "/readyz", 503, "not registered");
    assert_eq!(get(&place, "/healthz"), (200, "ok\n".to_owned()));
    let found = scrape(&place);
    assert_eq!(found[CONNECTIVITY], -1);
    assert!(found["pullet_memory_bytes"] > 0 && !found.contains_key("pullet_jobs_open"), "{found:?}");
    testbed.clear_faults();
    until_probe(&place, "/readyz", 200, "ok");
}

#[test]
fn nothing_listens_unless_it_is_set_and_then_no_thread_waits() {
    // A poll that is held leaves the loop and one thread: the others of the pool end when they had nothing to do for 10 s.
    let held = |setup: Setup| setup.without("--wait").flag("--wait", "120");
    let (without, with) = (Scene::with(held), Scene::with(|setup| metered(held(setup))));
    let place = place(&with.agent);
    assert_eq!(listening(&without.agent), Vec::<String>::new());
    assert_eq!(listening(&with.agent), std::slice::from_ref(&place));
    get(&place, "/metrics");
    for scene in [&without, &with] {
        until("an agent that has nothing to do", || match scene.agent.threads() {
            2 => Ok(()),
            count => Err(count.to_string()),
        });
    }
}

/// The loopback ports at which a process listens.
fn listening(agent: &Agent) -> Vec<String> {
    let ours: Vec<String> = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", agent.pid())).unwrap();
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        // State 0A is LISTEN (proc(5)).
        .filter(|words| words[3] == "0A" && ours.contains(&format!("socket:[{}]", words[9])))
        .map(|words| {
            let port = u16::from_str_radix(words[1].strip_prefix("0100007F:").unwrap(), 16).unwrap();
            format!("127.0.0.1:{port}")
        })
        .collect()
}

#[test]
fn what_is_no_request_has_an_answer_or_an_end() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    let of = |bytes: usize| {
        let head = "GET /healthz HTTP/1.1\r\nX: ";
        format!("{head}{}\r\n\r\n", "x".repeat(bytes - head.len() - 4))
    };
    assert_eq!(say(&place, of(HEAD).as_bytes()).0, 200);
    assert_eq!(say(&place, of(HEAD + 1).as_bytes()).0, 431);
    assert_eq!(say(&place, &[0xff; HEAD]).0, 431);
    assert_eq!(say(&place, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n").0, 400);
    assert_eq!(say(&place, b"SSH-2-x\r\n\r\n").0, 400);
    let (status, line) = get(&place, "/");
    assert_eq!((status, line.as_str()), (404, "there are /metrics, /healthz and /readyz\n"));
    assert_eq!(get(&place, "/../metrics").0, 404);
    assert_eq!(say(&place, b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").0, 405);
    assert_eq!(say(&place, b"HEAD /healthz HTTP/1.1\r\n\r\n"), (200, String::new()));
    // Two in one are answered once, and the connection ends.
    let twice = b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n";
    assert_eq!(say(&place, twice), (200, "ok\n".to_owned()));
    // A head that comes in pieces, and one whose end never comes.
    let mut slow = connect(&place);
    for piece in ["GET /hea", "lthz HTT", "P/1.1\r\n", "\r", "\n"] {
        slow.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(answer(slow).0, 200);
    let mut half = connect(&place);
    half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = Vec::new();
    half.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"");
    drop(connect(&place));
    assert_eq!(get(&place, "/healthz").0, 200);
    scene.goes_on();
}

#[test]
fn who_says_nothing_or_reads_nothing_keeps_nobody_waiting() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    let files = || fs::read_dir(format!("/proc/{}/fd", scene.agent.pid())).unwrap().count();
    scrape(&place);
    let before = files();
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..100).map(|_| connect(&place)).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        // The agent may have ended those that came first.
        let _ = stream.write_all(if number % 2 == 0 { b"GET /metrics HTTP/1.1\r\nX:" } else { b"" });
    }
    let (status, _) = get(&place, "/healthz");
    assert_eq!(status, 200);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(files() <= before + 8, "only so many are open at once");
    // A byte now and then is no request: it is over in the end, whoever else comes or not.
    let mut dripping = connect(&place);
    let began = Instant::now();
    while dripping.write_all(b"X").is_ok() {
        assert!(began.elapsed() < PATIENCE, "a slow client is kept for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(silent);
    until("closed connections", || if files() <= before { Ok(()) } else { Err(files().to_string()) });
    scene.goes_on();
}

#[test]
fn fifty_at_once_are_all_answered() {
    let scene = Scene::with(metered);
    let place = place(&scene.agent);
    let rss = scene.agent.rss_kb();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50).map(|_| scope.spawn(|| scrape(&place))).collect();
        for asked in asking {
            assert!(asked.join().unwrap().contains_key(CONNECTIVITY));
        }
    });
    assert!(scene.agent.rss_kb() < rss + 1_024, "from {rss} to {} kB", scene.agent.rss_kb());
    scene.goes_on();
}

fn at_socket(path: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

#[test]
fn a_socket_in_the_file_system_is_for_user_and_group_and_outlives_no_agent() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let path = setup.home().join("metrics.sock");
    let setup = setup.flag("--metrics", format!("unix:{}", path.display()));
    let mut agent = setup.spawn();
    agent.wait_for_log("metrics and probes are answered", SOON);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(at_socket(&path, "GET /healthz HTTP/1.1\r\n\r\n"), (200, "ok\n".to_owned()));
    agent.kill();
    assert!(path.exists(), "nobody could remove it");
    let mut agent = setup.spawn();
    agent.wait_for_log("metrics and probes are answered", SOON);
    let (status, page) = at_socket(&path, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(status == 200 && page.contains("pullet_uptime_seconds"), "{page}");
    assert!(agent.stop().status.success());
    assert!(!path.exists());
}

#[test]
fn an_address_that_somebody_else_has_stops_nothing_and_is_said_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let path = setup.home().join("theirs.sock");
    let theirs = UnixListener::bind(&path).unwrap();
    for address in [port.local_addr().unwrap().to_string(), format!("unix:{}", path.display())] {
        let mut agent = setup.clone().flag("--metrics", &address).spawn();
        agent.wait_for_log("no metrics and no probes are answered", SOON);
        let job = apply(&testbed, "all-the-same");
        testbed.result_of(&job, SOON);
        assert!(agent.log().contains(&address));
        assert!(agent.stop().status.success());
        assert_eq!(agent.log().matches("no metrics and no probes").count(), 1);
    }
    drop(theirs);
    assert!(path.exists(), "the socket of another is left alone");
}

#[test]
fn what_others_could_reach_is_refused() {
    let testbed = Testbed::start();
    for (address, words) in [
        ("0.0.0.0:9464", "can be reached from elsewhere"),
        ("[::]:9464", "can be reached from elsewhere"),
        ("9464", "127.0.0.1:PORT"),
        ("unix:metrics.sock", "names no file from the root"),
        (&format!("unix:/{}", "x".repeat(107)), "107 bytes"),
    ] {
        says(&quick(&testbed).flag("--metrics", address).run_to_end("run"), 2, &["metrics = ", words]);
    }
    let none = Scene::with(|setup| setup.flag("--metrics", "none"));
    assert_eq!(listening(&none.agent), Vec::<String>::new());
}

/// A page with everything that can be on one: a credential and a certificate that end, and a budget.
fn whole_page() -> String {
    let clients = Some(std::sync::Arc::new(Clients::issuing()));
    let testbed = Testbed::with(Options { clients, ..Options::default() });
    testbed.behave(|behaviour| behaviour.bearer_life = Some(Duration::from_secs(3_600)));
    let setup = metered(quick(&testbed).without("--wait")).switch("--mtls");
    let agent = setup.flag("--profile", "metered").flag("--monthly-budget", "100").spawn();
    let place = place(&agent);
    until("a certificate", || {
        let (_, page) = get(&place, "/metrics");
        if page.contains("\npullet_certificate_expiry") && page.contains("state{mode=\"pull\"} 1\n") {
            Ok(page)
        } else {
            Err(page)
        }
    })
}

/// Every name of a metric in a text, without the endings of what a query makes of it.
fn names_in(text: &str) -> std::collections::BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("vworkspace_operator_") || word.starts_with("pullet_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_document_lists_what_is_served_and_the_dashboard_asks_for_nothing_else() {
    let page = whole_page();
    let served: std::collections::BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let document = fs::read_to_string(docs.join("metrics.md")).unwrap();
    // The names of the table, each at the beginning of a row.
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    let listed: std::collections::BTreeSet<String> =
        rows.filter(|name| names_in(name).len() == 1).map(str::to_owned).collect();
    assert_eq!(listed, served);
    // As the field knows them: whoever has a dashboard for other agents has one for this.
    let known = [
        "applied_jobs_total",
        "connectivity_state",
        "credential_age_seconds",
        "event_buffer_occupancy",
        "pull_job_lag_seconds",
    ];
    assert!(known.iter().all(|name| served.contains(&format!("vworkspace_operator_{name}"))), "{served:?}");
    assert!(page.lines().any(|line| line.starts_with("vworkspace_operator_connectivity_state{mode=\"pull\"} ")));
    for name in names_in(&document) {
        assert!(served.contains(&name), "docs/metrics.md names {name}, which is not served");
    }
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(docs.join("grafana.json")).unwrap()).unwrap();
    let asked = names_in(&dashboard.to_string());
    assert!(asked.len() > 15, "{asked:?}");
    for name in asked {
        assert!(served.contains(&name), "docs/grafana.json asks for {name}, which is not served");
    }
}

#[test]
#[ignore = "needs Python with the packages of tests/requirements.txt: PULLET_PYTHON"]
fn prometheus_and_openmetrics_read_the_page() {
    let python = std::env::var_os("PULLET_PYTHON").expect("PULLET_PYTHON names a Python with tests/requirements.txt");
    let page = whole_page();
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/metrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let read: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read.len(), page.lines().filter(|line| line.starts_with("# TYPE ")).count());
    assert_eq!(read["pullet_polls"][0], "counter");
    let samples: usize = read.values().map(|family| family[2].as_object().unwrap().len()).sum();
    assert_eq!(samples, samples_of(&page));
}

fn samples_of(page: &str) -> usize {
    page.lines().filter(|line| !line.starts_with('#')).count()
}
