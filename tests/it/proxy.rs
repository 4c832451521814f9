//! The way out through a forward proxy.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::Setup;
use crate::scene::{SOON, Scene, apply, goes_on, hit, quick, said, says, succeeds};
use crate::testbed::{Call, Fault, Options, Proxy, Testbed};

/// `user:geheim42` as a proxy is shown it.
const SHOWN: &str = "Basic dXNlcjpnZWhlaW00Mg==";
const PASSWORD: &str = "geheim42";

fn with_password(proxy: &Proxy) -> String {
    proxy.url().replace("://", &format!("://user:{PASSWORD}@"))
}

/// The server as a proxy and `NO_PROXY` name it.
pub(crate) fn server(testbed: &Testbed) -> String {
    testbed.endpoint().replace("https://", "")
}

/// An agent of this setup does its work, and every connection it made came through the proxy.
fn goes_through(testbed: &Testbed, proxy: &Proxy, setup: &Setup) {
    let (before, connections) = (proxy.tunnels().len(), testbed.counts().connections);
    let mut agent = setup.spawn();
    goes_on(testbed);
    assert!(agent.stop().status.success());
    let tunnels = proxy.tunnels();
    assert!(tunnels.len() > before && tunnels.iter().all(|to| *to == server(testbed)), "{tunnels:?}");
    assert_eq!(tunnels.len() - before, testbed.counts().connections - connections);
}

fn goes_straight(testbed: &Testbed, proxy: &Proxy, setup: &Setup) {
    let before = proxy.requests().len();
    let mut agent = setup.spawn();
    goes_on(testbed);
    assert!(agent.stop().status.success());
    assert_eq!(proxy.requests().len(), before);
}

#[test]
fn a_proxy_is_taken_from_the_flag_or_the_environment() {
    let (testbed, proxy) = (Testbed::start(), Proxy::start());
    let setup = quick(&testbed);
    goes_through(&testbed, &proxy, &setup.clone().flag("--proxy", proxy.url()));
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        goes_through(&testbed, &proxy, &setup.clone().env(name, proxy.url()));
    }
    // The proxy without a scheme, as many write it.
    goes_through(&testbed, &proxy, &setup.clone().env("HTTPS_PROXY", proxy.url().replace("http://", "")));
    goes_straight(&testbed, &proxy, &setup.env("HTTP_PROXY", proxy.url()));
}

#[test]
fn none_and_no_proxy_go_straight() {
    let (testbed, proxy) = (Testbed::start(), Proxy::start());
    let setup = quick(&testbed).env("HTTPS_PROXY", proxy.url());
    goes_straight(&testbed, &proxy, &setup.clone().flag("--proxy", "none"));
    goes_straight(&testbed, &proxy, &setup.clone().env("NO_PROXY", "a.example, 127.0.0.1"));
    goes_straight(&testbed, &proxy, &setup.clone().flag("--proxy", proxy.url()).env("no_proxy", "127.0.0.1"));
    goes_straight(&testbed, &proxy, &setup.clone().env("NO_PROXY", "*"));
    goes_through(&testbed, &proxy, &setup.env("NO_PROXY", "a.example,.0.0.2"));
}

#[test]
fn a_proxy_gets_its_password_and_no_log_does() {
    let (testbed, proxy) = (Testbed::start(), Proxy::start());
    proxy.ask_for(SHOWN);
    let setup = quick(&testbed).without("--log-level").flag("--log-level", "trace");
    let by_environment = setup.clone().env("HTTPS_PROXY", with_password(&proxy));
    goes_through(&testbed, &proxy, &by_environment);
    let file = setup.home().join("pullet.toml");
    fs::write(&file, format!("proxy = {:?}\n", with_password(&proxy))).unwrap();
    goes_through(&testbed, &proxy, &setup.clone().flag("--config", &file));
    // A wrong one, and one in a URL that cannot be used.
    let wrong = with_password(&proxy).replace(PASSWORD, "geheim43");
    let wrong = setup.clone().env("HTTPS_PROXY", wrong).spawn();
    wrong.wait_for_log("407", SOON);
    assert!(!wrong.log().contains("geheim"), "{}", wrong.log());
    drop(wrong);
    for url in [
        "socks5://user:geheim42@proxy.example:1080",
        "http://user:geheim42@",
        "http://user:geheim42@p:99999",
        "http://p:0x50",
    ] {
        for setup in [setup.clone().flag("--proxy", url), setup.clone().env("HTTPS_PROXY", url)] {
            let output = setup.run_to_end("run");
            says(&output, 2, &["proxy", "not a proxy URL such as"]);
            assert!(!said(&output).1.contains("geheim"), "{}", said(&output).1);
        }
    }
}

#[test]
fn a_proxy_that_refuses_is_a_fault_of_the_network() {
    thread::scope(|scope| {
        for (status, words) in [(407, "it wants a user and a password"), (502, "502"), (403, "403")] {
            scope.spawn(move || refuses(status, words));
        }
    });
}

fn refuses(status: u16, words: &str) {
    let (testbed, proxy) = (Testbed::start(), Proxy::start());
    let setup = quick(&testbed).flag("--proxy", proxy.url());
    proxy.refuse(Some(status));
    says(&setup.run_to_end("register"), 1, &["the proxy did not let us through", "--proxy none", words]);
    let mut agent = setup.spawn();
    agent.wait_for_log("not registered yet; it is tried again", SOON);
    agent.wait_for_log(words, SOON);
    proxy.refuse(None);
    goes_on(&testbed);
    // And so it is in the middle of the work.
    proxy.refuse(Some(status));
    testbed.cut_connections();
    agent.wait_for_log("not connected; the cluster goes on", SOON);
    let (asked, begin) = (proxy.requests().len(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (tries, took) = (proxy.requests().len() - asked, begin.elapsed());
    assert!(tries as u128 * 1_000 <= 3 * took.as_millis(), "{tries} tries within {took:?}");
    let meanwhile = apply(&testbed, "meanwhile");
    proxy.refuse(None);
    succeeds(&testbed, &meanwhile, SOON);
    assert!(agent.stop().status.success());
    let log = agent.log();
    assert!(!log.contains("no jobs until") && !log.contains("credential is refused"), "{log}");
    let is_false = |event: &serde_json::Value| {
        event["conditions"].as_array().is_some_and(|conditions| {
            conditions.iter().any(|condition| condition["type"] == "Authenticated" && condition["status"] == "False")
        })
    };
    assert!(!testbed.events().iter().any(|record| is_false(&record.event)));
    assert_eq!(testbed.requests_of(Call::Rotate).len(), 0, "nobody doubted the credential");
}

#[test]
fn a_proxys_own_page_in_place_of_an_answer_is_a_fault_of_the_network() {
    thread::scope(|scope| {
        for status in [401, 403, 407, 502, 511] {
            scope.spawn(move || {
                let scene = Scene::start();
                scene.testbed.fault(Call::Jobs, 1, Fault::html(status));
                hit(&scene.testbed, Call::Jobs, SOON);
                scene.goes_on();
                assert!(!scene.agent.log().contains("no jobs until"), "{status}: {}", scene.agent.log());
                assert_eq!(scene.testbed.requests_of(Call::Rotate).len(), 0);
            });
        }
    });
}

#[test]
fn a_proxy_that_is_not_there_is_said() {
    let testbed = Testbed::start();
    let gone = Proxy::start().url();
    let setup = quick(&testbed);
    says(&setup.clone().flag("--proxy", gone).run_to_end("register"), 1, &["no connection", "refused"]);
    let setup = setup.flag("--proxy", "http://proxy.invalid:3128");
    says(&setup.run_to_end("register"), 1, &["the name proxy.invalid has no address"]);
}

#[test]
fn plain_http_to_this_machine_passes_by_every_proxy() {
    let testbed = Testbed::with(Options { plain_http: true, ..Options::default() });
    let proxy = Proxy::start();
    let setup = quick(&testbed).switch("--allow-plain-http-loopback").env("HTTPS_PROXY", proxy.url());
    goes_straight(&testbed, &proxy, &setup.clone().env("HTTP_PROXY", proxy.url()));
    goes_straight(&testbed, &proxy, &setup.flag("--proxy", proxy.url()));
}
