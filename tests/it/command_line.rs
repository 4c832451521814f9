//! The command line: what it understands, and what it says to a person when something is wrong.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::agent::{Agent, CLUSTER, Setup, write_secret};
use crate::scene::{SOON, goes_on, quick, said, says};
use crate::testbed::{Call, Fault, Testbed};

fn pullet(line: &str) -> Output {
    Agent::run_to_end(line.split_whitespace())
}

/// Runs a command with something on its standard input.
fn with_stdin(setup: &Setup, command: &str, text: &str) -> Output {
    let mut command = setup.prepare(command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn help_is_there_for_everything_and_ends_with_0() {
    for line in ["help", "--help", "-h", "help help", "help version"] {
        let output = pullet(line);
        says(&output, 0, &["Usage: pullet COMMAND", "First steps:", "Exit codes: 0 done, 1 failed, 2 wrong usage"]);
        assert!(output.stderr.is_empty(), "{line}");
    }
    for command in ["run", "register"] {
        for line in [format!("{command} --help"), format!("{command} -h"), format!("help {command}")] {
            let words = ["--state-dir", "--token-file", "--log-level", "A flag wins."];
            says(&pullet(&line), 0, &[&format!("Usage: pullet {command} "), words[0], words[1], words[2], words[3]]);
        }
    }
    for line in ["version", "--version", "-V"] {
        says(&pullet(line), 0, &[concat!("pullet ", env!("CARGO_PKG_VERSION"))]);
    }
    let json: serde_json::Value = serde_json::from_slice(&pullet("version --json").stdout).unwrap();
    assert_eq!((&json["version"], &json["protocol"]), (&env!("CARGO_PKG_VERSION").into(), &1.into()));
    assert!(json.get("commit").is_none_or(serde_json::Value::is_string));
}

#[test]
fn wrong_usage_ends_with_2_and_names_what_was_meant() {
    for (line, words) in [
        ("", "a command is missing"),
        ("rnu", "there is no command \"rnu\"; did you mean run?"),
        ("regster", "did you mean register?"),
        ("frobnicate", "pullet help lists them"),
        ("help runn", "did you mean run?"),
        ("run --endpont x", "there is no flag --endpont; did you mean --endpoint?"),
        ("run --state_dir x", "did you mean --state-dir?"),
        ("register --tokenfile x", "did you mean --token-file?"),
        ("run --frobnicate", "there is no flag --frobnicate; --help lists them"),
        ("run --wait", "--wait needs a value"),
        ("run --wait soon", "--wait"),
        ("run --wait 1 --wait 2", "--wait"),
        ("run --wait=0", "wait = \"0\": from 1 to 300 seconds"),
        ("run --wait 301", "from 1 to 300 seconds"),
        ("run --target cloud", "one of kubernetes, directory"),
        ("run --target directory", "--directory"),
        ("run --log-level loud", "one of error, warn, info, debug, trace"),
        ("run --log-format xml", "one of text, json"),
        ("run --endpoint control.example", "https://control.example"),
        ("run --endpoint https://user:geheim@control.example", "not a URL such as"),
        ("run --cluster-id a/b", "cluster_id"),
        ("run --allow-plain-http-loopback=maybe", "takes true or false"),
        ("run now", "\"now\" does not belong here; --help shows how it goes"),
        ("run -x", "\"-x\" does not belong here"),
        ("version now", "does not belong here"),
        ("run --config /nonexistent/pullet.toml", "the configuration /nonexistent/pullet.toml cannot be read"),
        ("register --cluster-resource *", "registers by itself: put the one-time token into its Secret"),
        ("register", "endpoint is missing: say where the control plane is: --endpoint https://…"),
        (
            "register --endpoint https://127.0.0.1:1",
            "token_file is missing: give the one-time token: --token-file FILE",
        ),
    ] {
        let output = pullet(line);
        says(&output, 2, &["pullet: ", words]);
        assert!(output.stdout.is_empty() && !said(&output).1.contains("geheim"), "{line}");
    }
    let not_text = Agent::run_to_end([OsString::from_vec(vec![b'r', 0xff])]);
    says(&not_text, 2, &["not UTF-8"]);
}

#[test]
fn an_unknown_key_of_the_file_is_named_with_the_closest_known_one() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("pullet.toml");
    for (text, words) in [
        ("endpont = \"https://a\"", "there is no setting \"endpont\"; did you mean endpoint?"),
        ("state-dir = \"/x\"", "did you mean state_dir?"),
        ("frobnicate = 1", "pullet run --help lists them"),
        ("wait = \"30\"", "line 1"),
        ("wait = 30\nendpoint = ", "line 2"),
        ("wait = 0", "from 1 to 300 seconds"),
    ] {
        fs::write(&file, text).unwrap();
        for command in ["run", "register"] {
            says(&Agent::run_to_end([command, "--config", file.to_str().unwrap()]), 2, &[words]);
        }
    }
    let output = Agent::run_to_end(["run", "--config", home.path().to_str().unwrap()]);
    says(&output, 2, &["the configuration", "cannot be read"]);
}

#[test]
fn a_value_is_written_either_way_and_a_flag_wins_over_the_file() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let file = setup.home().join("pullet.toml");
    let text = format!(
        "endpoint = \"https://127.0.0.1:1\"\nca_file = {:?}\nstate_dir = {:?}\ntoken_file = {:?}\ndisplay_name = \"Clinic 7\"\n",
        testbed.ca_file(),
        setup.state_dir(),
        setup.home().join("token"),
    );
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    says(&Agent::run_to_end(["register", &format!("--config={file}")]), 1, &["https://127.0.0.1:1", "no connection"]);
    let endpoint = format!("--endpoint={}", testbed.endpoint());
    let output = Agent::run_to_end(["register", "--config", file, &endpoint]);
    says(&output, 0, &["registering at https://127.0.0.1", "registered as c1", "next: pullet run"]);
    let request = &testbed.requests_of(Call::Register)[0];
    assert!(String::from_utf8_lossy(&request.body).contains("\"displayName\":\"Clinic 7\""));
    let _agent = setup.without("--token-file").without("--endpoint").spawn();
    goes_on(&testbed);
}

#[test]
fn a_registration_is_done_once_and_says_what_to_do() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    says(
        &setup.run_to_end("register"),
        1,
        &["already registered as c1 at https://", "get a new one-time token and add --force"],
    );
    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
    // The token is used up now: for another state directory it is refused.
    let other = setup.clone().flag("--state-dir", setup.home().join("other"));
    let words = ["the control plane does not accept the one-time token", "get a new one", "401"];
    says(&other.run_to_end("register"), 1, &words);
    let foreign = quick(&testbed).flag("--cluster-id", "c2");
    says(&foreign.run_to_end("register"), 1, &["does not accept the one-time token", "403"]);
    testbed.fault(Call::Register, 1, Fault::status(404));
    says(&foreign.run_to_end("register"), 1, &["no agent API at this endpoint: check --endpoint"]);
    // Whatever is left out.
    testbed.fault(Call::Register, 4, Fault::refusal(400, "UnknownField"));
    says(&foreign.run_to_end("register"), 1, &["not registered", "400", "UnknownField"]);
}

#[test]
fn a_token_comes_from_standard_input_as_well() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).flag("--token-file", "-");
    for text in ["", " \n"] {
        says(&with_stdin(&setup, "register", text), 1, &["the token cannot be used: it is empty"]);
    }
    says(&with_stdin(&setup, "register", "two words"), 1, &["characters other than letters, digits"]);
    let token = testbed.issue_token(Some(CLUSTER));
    says(&with_stdin(&setup, "register", &format!("{token}\n")), 0, &["registered as c1"]);
    let _agent = setup.spawn();
    goes_on(&testbed);
}

#[test]
fn run_keeps_a_token_from_standard_input_while_the_server_is_busy_and_ends_when_it_is_refused() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).flag("--token-file", "-");
    let refused = with_stdin(&setup, "run", &"x".repeat(40));
    says(&refused, 1, &["does not accept the one-time token"]);

    testbed.fault(Call::Register, 2, Fault::status(503));
    let mut command = setup.prepare("run");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let token = testbed.issue_token(Some(CLUSTER));
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    goes_on(&testbed);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn reading_a_token_from_standard_input_ends_with_a_signal() {
    let testbed = Testbed::start();
    let mut command = quick(&testbed).flag("--token-file", "-").prepare("run");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let deadline = std::time::Instant::now() + SOON;
    while !status(child.id()).contains("State:\tS") && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success(), "there is nothing that it could have done");
}

#[test]
fn a_token_file_is_closed_to_others_and_a_file() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let token = setup.home().join("token");
    let refused = |words: &[&str]| {
        for command in ["register", "run"] {
            says(&setup.run_to_end(command), 1, words);
        }
    };
    set_mode(&token, 0o644);
    refused(&["token is refused because it is open to group or others (chmod 600)"]);
    set_mode(&token, 0o600);
    let kept = setup.home().join("kept");
    fs::rename(&token, &kept).unwrap();
    refused(&["token", "No such file"]);
    symlink(&kept, &token).unwrap();
    refused(&["token is refused because it is a link"]);
    fs::remove_file(&token).unwrap();
    fs::create_dir(&token).unwrap();
    refused(&["token is refused because it is not a regular file"]);
    assert_eq!(testbed.counts().connections, 0, "nothing was sent to anybody");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_before_the_token_is_used_up() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let refused = |setup: &Setup, words: &[&str]| {
        for command in ["register", "run"] {
            says(&setup.run_to_end(command), 1, words);
        }
    };
    let place = setup.home().join("place");
    let placed = setup.clone().flag("--state-dir", &place);
    fs::write(&place, "a file").unwrap();
    refused(&placed, &["place is refused because it is not a directory"]);
    let below = setup.clone().flag("--state-dir", place.join("below"));
    refused(&below, &["place is refused because it is not a directory"]);
    fs::remove_file(&place).unwrap();
    symlink(setup.state_dir(), &place).unwrap();
    refused(&placed, &["place is refused because it is a link"]);
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    set_mode(&place, 0o777);
    refused(&placed, &["place is refused because others may write to it (chmod go-w)"]);
    refused(&setup.clone().flag("--state-dir", "/proc/pullet"), &["/proc/pullet", "cannot be"]);
    assert_eq!(testbed.counts().connections, 0, "nothing was sent to anybody");
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
}

#[test]
fn a_credential_that_cannot_be_used_is_said_and_left_as_it_is() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);
    let file = setup.state_dir().join("credential.json");
    let good = fs::read_to_string(&file).unwrap();
    let malformed = ["is not a credential of this version", "get a new one-time token and run pullet register --force"];
    for text in [
        String::new(),
        "{}".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\":1", "\"version\":2"),
        format!("{good}{good}"),
    ] {
        write_secret(&file, &text);
        for command in ["run", "register"] {
            says(&setup.run_to_end(command), 1, &["credential.json", malformed[0], malformed[1]]);
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    write_secret(&file, &good);
    set_mode(&file, 0o640);
    says(
        &setup.run_to_end("run"),
        1,
        &["credential.json is refused because it is open to group or others (chmod 600)"],
    );
    set_mode(&file, 0o600);
    let elsewhere = setup.clone().flag("--endpoint", "https://127.0.0.2:1");
    says(
        &elsewhere.run_to_end("run"),
        1,
        &["was issued by https://127.0.0.1", "set the endpoint back", "register --force"],
    );
    let _agent = setup.spawn();
    goes_on(&testbed);
    assert_eq!(testbed.requests_of(Call::Register).len(), 1);
}

#[test]
fn what_is_missing_to_run_is_said() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let words = ["this node is not registered yet", "run pullet register first"];
    says(&setup.clone().without("--endpoint").run_to_end("run"), 2, &words);
    says(&setup.clone().without("--token-file").run_to_end("run"), 2, &words);
    let setup = setup.without("--directory").flag("--directory", "/nonexistent/manifests");
    says(&setup.run_to_end("run"), 1, &["/nonexistent/manifests"]);
}

#[test]
fn a_line_is_for_people_or_for_programs_as_it_was_asked_for() {
    let testbed = Testbed::start();
    let mut agent = quick(&testbed).spawn();
    agent.wait_for_log("\"level\":\"info\"", SOON);
    goes_on(&testbed);
    agent.stop();
    for line in agent.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["time"].is_string() && value["level"].is_string() && value["message"].is_string(), "{line}");
    }
    let setup = quick(&testbed).without("--log-level").flag("--log-level", "error").flag("--log-format", "text");
    let mut agent = setup.spawn();
    goes_on(&testbed);
    agent.stop();
    assert_eq!(agent.log(), "", "nothing went wrong");
}

#[test]
#[ignore = "needs a small disk: root, to mount a file system of 64 KiB"]
fn a_full_disk_is_said_before_the_token_is_used_up() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let disk = Tmpfs::mount(setup.home().join("disk"));
    let state = disk.0.join("state");
    fs::create_dir(&state).unwrap();
    let setup = setup.flag("--state-dir", &state);
    fs::write(disk.0.join("ballast"), vec![0; 256 * 1024]).expect_err("the disk is full");
    for command in ["register", "run"] {
        says(&setup.run_to_end(command), 1, &["state", "No space left on device"]);
    }
    assert_eq!(testbed.counts().connections, 0, "nothing was sent to anybody");
    fs::remove_file(disk.0.join("ballast")).unwrap();
    says(&setup.run_to_end("register"), 0, &["registered as c1"]);

    // Full again while it runs: a rotation cannot be stored, and the old credential stays in use.
    let mut agent = setup.spawn();
    goes_on(&testbed);
    fs::write(disk.0.join("ballast"), vec![0; 256 * 1024]).expect_err("the disk is full");
    let rotate = || testbed.intent(CLUSTER, "rotate-operator-credentials", serde_json::Value::Null);
    let result = testbed.result_of(&rotate(), SOON);
    assert_eq!(result["outcome"], "failed");
    assert!(result["error"].as_str().is_some_and(|error| error.contains("full or read-only?")), "{result}");
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 0, "none is asked for that could not be kept");
    fs::remove_file(disk.0.join("ballast")).unwrap();
    assert_eq!(testbed.result_of(&rotate(), SOON)["outcome"], "succeeded");
    assert!(agent.stop().status.success());
}

/// A file system of 64 KiB, unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(path: std::path::PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", "size=64k", "pullet-test"]).arg(&path).status().unwrap();
        assert!(status.success(), "{status}");
        Self(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
