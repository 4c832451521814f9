//! The demo: a control plane, an agent, jobs of each kind, a line that fails; told as a timeline.
//!
//! `cargo run --example demo` needs nothing but this machine. The control plane is the testbed, a strict
//! server over real TLS on the loopback; the agent is a process of its own, started from this very program.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a demo is there to be read")]

#[path = "demo/agent.rs"]
mod agent;
#[path = "demo/options.rs"]
mod options;
#[path = "demo/story.rs"]
mod story;
#[path = "testbed/mod.rs"]
mod testbed;

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use agent::Agent;
use options::{Cluster, Command, Options};
use story::{Expected, Story, Who};
use testbed::job::{application_instance, config_map, operation};
use testbed::owner::Owner;
use testbed::{Job, Testbed};

/// The cluster that is registered.
const CLUSTER: &str = "demo";

/// The namespace everything lives in.
const NAMESPACE: &str = "pullet-demo";

/// Where this node's owner lets charts come from.
const CHARTS: &str = "https://charts.example.org";

/// How long a step may take. Each takes less than a second when all is well.
const STEP: Duration = Duration::from_secs(15);

/// How long the first poll may take: within two minutes of a boot it is spread over 30 s.
const FIRST_POLL: Duration = Duration::from_secs(45);

/// How long the line stays down: long enough to be noticed, too short for long pauses between attempts.
const OUTAGE: Duration = Duration::from_secs(2);

/// How long the agent may take to come back after it: its second and third pause are drawn from up to 8 s.
const RETURN: Duration = Duration::from_secs(30);

/// Why the demo did not come to its end, in a sentence.
type Failure = String;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == agent::ARGUMENT).is_some() {
        // An example does not come with the binary: this program is the agent as well.
        return pullet::cli::main(std::iter::once(OsString::from("pullet")).chain(arguments));
    }
    match options::parse(arguments) {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            ExitCode::SUCCESS
        }
        Ok(Command::Run(options)) => match tell(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("\nThe demo stopped: {failure}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("{error}\nTry --help.");
            ExitCode::from(2)
        }
    }
}

fn tell(options: &Options) -> Result<(), Failure> {
    let home = tempfile::Builder::new().prefix("pullet-demo-").tempdir();
    let home = home.map_err(|error| format!("no temporary directory: {error}"))?.keep();
    let applied = home.join("applied");
    for directory in [&applied, &home.join("state")] {
        let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
        made.map_err(|error| format!("{} cannot be made: {error}", directory.display()))?;
    }

    play(options, &home).map_err(|failure| format!("{failure}{}", end_of_log(&home.join("agent.log"))))?;
    conclude(options, &home, &applied);
    Ok(())
}

fn play(options: &Options, home: &Path) -> Result<(), Failure> {
    let mut testbed = Testbed::start();
    let owner = Owner::new();
    let keyring = home.join("keyring");
    std::fs::write(&keyring, owner.keyring(1))
        .and_then(|()| std::fs::set_permissions(&keyring, std::fs::Permissions::from_mode(0o600)))
        .map_err(|error| format!("{} cannot be written: {error}", keyring.display()))?;
    let mut story = Story::new(owner);
    introduce(&testbed, options);

    let agent = Agent::new(home, &testbed, options);
    story.chapter("1. The agent introduces itself");
    register(&testbed, &agent, &mut story)?;
    let running = agent.run()?;
    story.wait_for(&testbed, "the agent to ask for work", FIRST_POLL, |state| (state.counts.held > 0).then_some(()))?;

    story.chapter("2. Work of each kind");
    work(&testbed, options, &mut story)?;

    story.chapter("3. What the agent does not do");
    refuse(&testbed, &mut story)?;

    story.chapter("4. The line goes down, and comes back");
    lose_the_line(&mut testbed, &mut story)?;

    story.chapter("5. Something is taken away");
    delete(&testbed, options, &mut story)?;

    story.chapter("6. The end");
    story.say(Who::You, Who::Agent, "stop (SIGTERM)");
    let took = running.stop()?;
    story.catch_up(&testbed);
    story.say(Who::Agent, Who::You, &format!("finished and gone after {:.1} s", took.as_secs_f64()));
    testbed.violations().first().map_or(Ok(()), |violation| Err(format!("the agent broke the protocol: {violation}")))
}

fn introduce(testbed: &Testbed, options: &Options) {
    let target = match &options.cluster {
        Some(cluster) => format!("the cluster of {}", cluster.kubeconfig.display()),
        None => "a directory, as on a node without credentials for its cluster".to_owned(),
    };
    println!(
        "Pullet in one minute

  control plane   {}   (TLS, with a CA of its own)
  agent           a process on this machine; it only ever connects outward
  applies to      {target}

Each line: seconds since the start, who tells whom, what.",
        testbed.endpoint()
    );
}

fn register(testbed: &Testbed, agent: &Agent, story: &mut Story) -> Result<(), Failure> {
    let token = testbed.issue_token(Some(CLUSTER));
    story.say(Who::ControlPlane, Who::You, "a one-time token for the new node");
    story.say(Who::You, Who::Agent, "your keyring to pin: from now on it obeys your signature only");
    story.say(Who::You, Who::Agent, "register, with the token in a file that only you can read");
    agent.register(&token)?;
    story.catch_up(testbed);
    Ok(())
}

fn work(testbed: &Testbed, options: &Options, story: &mut Story) -> Result<(), Failure> {
    let ours = if options.cluster.is_some() { Expected::SucceededOrUnknownKind } else { Expected::Succeeded };
    let greeting = Job::apply(config_map(NAMESPACE, "greeting", "hello"));
    story.order(testbed, "job-1", "apply the ConfigMap greeting", greeting.with("idempotencyKey", "greeting-v1"));
    story.await_result(testbed, "job-1", Expected::Succeeded, STEP)?;

    let wiki = json!({"applicationInstance": from(CHARTS, "wiki")});
    story.order(testbed, "job-2", "have the application wiki", Job::intent("ensure-application-instance", wiki));
    story.await_result(testbed, "job-2", ours, STEP)?;

    let backup = json!({"operation": operation(NAMESPACE, "backup-wiki")});
    story.order(testbed, "job-3", "request the operation backup-wiki", Job::intent("request-operation", backup));
    story.await_result(testbed, "job-3", ours, STEP)?;

    let rotate = Job::intent("rotate-operator-credentials", Value::Null);
    story.order(testbed, "job-4", "fetch a new credential", rotate);
    story.await_result(testbed, "job-4", Expected::Succeeded, STEP)?;

    let sealed = Job::apply(config_map(NAMESPACE, "sealed", "what the control plane cannot read"));
    story.order_sealed(testbed, "job-5", "apply a ConfigMap that is encrypted to the node", sealed)?;
    story.await_result(testbed, "job-5", Expected::Succeeded, STEP)
}

/// An application with the chart that it is installed from.
fn from(charts: &str, name: &str) -> Value {
    let mut instance = application_instance(NAMESPACE, name);
    instance["spec"]["mode"] = json!("managed");
    instance["spec"]["chart"] = json!({"sourceType": "helm", "url": charts, "name": name, "version": "1.2.3"});
    instance
}

fn refuse(testbed: &Testbed, story: &mut Story) -> Result<(), Failure> {
    let forged = Job::apply(config_map(NAMESPACE, "forged", "not by you"));
    story.slip_in(testbed, "job-6", "apply a ConfigMap that you did not sign, slipped in by an intruder", forged);
    story.await_result(testbed, "job-6", Expected::Failed, STEP)?;

    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "everything-for-me"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    });
    story.order(
        testbed,
        "job-7",
        "apply a ClusterRoleBinding, which this node's owner never allowed",
        Job::apply(role),
    );
    story.await_result(testbed, "job-7", Expected::Failed, STEP)?;

    let late = Job::apply(config_map(NAMESPACE, "late", "too late")).expires_in(-3600);
    story.order(testbed, "job-8", "apply a ConfigMap, in a job that expired an hour ago", late);
    story.await_result(testbed, "job-8", Expected::Noop, STEP)?;

    let again = Job::apply(config_map(NAMESPACE, "greeting", "hello")).with("idempotencyKey", "greeting-v1");
    story.order(testbed, "job-9", "the same as job-1 (same idempotency key)", again);
    story.await_result(testbed, "job-9", Expected::Noop, STEP)?;

    let elsewhere = json!({"applicationInstance": from("https://elsewhere.example", "miner")});
    let elsewhere = Job::intent("ensure-application-instance", elsewhere);
    story.order(testbed, "job-10", "have an application whose chart comes from elsewhere", elsewhere);
    story.await_result(testbed, "job-10", Expected::Failed, STEP)
}

fn lose_the_line(testbed: &mut Testbed, story: &mut Story) -> Result<(), Failure> {
    story.catch_up(testbed);
    testbed.down();
    story.mark("the line is down: connections are cut, new ones refused");
    story.order(
        testbed,
        "job-11",
        "apply the ConfigMap meanwhile",
        Job::apply(config_map(NAMESPACE, "meanwhile", "sent while the line was down")),
    );
    story.note(&format!("for {} s the agent tries again, with pauses that grow …", OUTAGE.as_secs()));
    std::thread::sleep(OUTAGE);
    testbed.up();
    story.mark("the line is up again");
    story.expect_poll();
    story.await_result(testbed, "job-11", Expected::Succeeded, RETURN)
}

fn delete(testbed: &Testbed, options: &Options, story: &mut Story) -> Result<(), Failure> {
    let meanwhile = Job::delete("v1", "ConfigMap", NAMESPACE, "meanwhile");
    story.order(testbed, "job-12", "delete the ConfigMap meanwhile", meanwhile);
    story.await_result(testbed, "job-12", Expected::Succeeded, STEP)?;
    if options.cluster.is_none() {
        story.note("its file has no object now, from which k3s learns to delete it; the file itself goes later");
    }
    Ok(())
}

fn conclude(options: &Options, home: &Path, applied: &Path) {
    println!("\nThat was it. Nothing runs any more.");
    if let Some(cluster) = &options.cluster {
        println!("What was applied is in the namespace {NAMESPACE} of the cluster:\n");
        println!("  {} get configmaps", kubectl(cluster));
        tell_log(home);
        println!("To clean up:\n\n  {} && rm -r {}", remove_namespace(cluster), home.display());
        return;
    }
    println!("What was applied lies in {}:\n", applied.display());
    for (file, object) in objects(applied) {
        println!("  {file}   {object}");
    }
    tell_log(home);
    println!("To clean up:\n\n  rm -r {}", home.display());
}

/// The last lines of the agent's log, for a failure; nothing where the log was shown.
fn end_of_log(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default();
    if tail.is_empty() {
        return String::new();
    }
    format!("\nThe last lines of {}:\n  {}", log.display(), tail.join("\n  "))
}

/// There is no log where it was shown.
fn tell_log(home: &Path) {
    let log = home.join("agent.log");
    println!();
    if log.exists() {
        println!("The agent's log is {}.", log.display());
    }
}

/// The files of the directory target, each with the object it holds.
fn objects(directory: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut objects: Vec<_> = entries
        .map(|entry| {
            let object: Value = std::fs::read(entry.path())
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok())
                .unwrap_or(Value::Null);
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
            let what = match (text("/kind"), text("/metadata/namespace"), text("/metadata/name")) {
                (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
                (Some(kind), None, Some(name)) => format!("{kind} {name}"),
                _ => "no object: k3s removes what was in it".to_owned(),
            };
            (entry.file_name().to_string_lossy().into_owned(), what)
        })
        .collect();
    objects.sort();
    objects
}

fn kubectl(cluster: &Cluster) -> String {
    let context = cluster.context.as_ref().map(|context| format!(" --context {context}")).unwrap_or_default();
    format!("kubectl --kubeconfig {}{context} --namespace {NAMESPACE}", cluster.kubeconfig.display())
}

fn remove_namespace(cluster: &Cluster) -> String {
    format!("{} delete namespace {NAMESPACE}", kubectl(cluster))
}
