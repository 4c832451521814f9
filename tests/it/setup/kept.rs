//! What works is kept: nothing unusable takes its place, and nothing is begun that could not be ended.

use std::fs;
use std::os::unix::fs::symlink;

use super::machine::Machine;
use crate::agent::write_secret;
use crate::scene::{said, says};
use crate::testbed::Testbed;
use crate::testbed::owner::Owner;

const TOKEN: &str = "abcdefghijklmnopqrstuv";

const CARD: [&str; 8] = [
    "setup",
    "--no-start",
    "--endpoint",
    "https://control.example.org",
    "--target",
    "directory",
    "--directory",
    "/srv/applied",
];

/// A card whose files can be given to whoever runs the tests.
fn card() -> Machine {
    let machine = Machine::bare();
    machine.has_user_of_ours();
    machine
}

#[test]
fn what_cannot_be_used_takes_the_place_of_nothing_that_works() {
    let testbed = Testbed::start();
    let machine = card();
    let owner = Owner::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = machine.path(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let ca = testbed.ca_file().display().to_string();
    let pem = fs::read(testbed.ca_file()).unwrap();
    let chain = file("chain", [owner.keyring(1), owner.keyring(2)].join("\n").as_bytes());
    write_secret(&machine.path("token"), TOKEN);
    let token = machine.path("token").display().to_string();
    let good = ["--ca-file", &ca, "--keyring", &chain, "--token-file", &token];
    says(&machine.run(&[&CARD[..], &good].concat()), 0, &["wrote /etc/pullet/credentials/pullet.keyring"]);
    let held = |name: &str| machine.read(&format!("etc/pullet/credentials/pullet.{name}"));
    let before = ["ca", "keyring", "token"].map(held);
    assert_eq!(before[0].as_bytes(), pem);

    for (name, text) in [("spaces", "two words"), ("empty", " \n"), ("long", &"x".repeat(70_000))] {
        write_secret(&machine.path(name), text);
    }
    let at = |name: &str| machine.path(name).display().to_string();
    let forged = owner.keyring(1).replace(".eyJ", ".eyK");
    let passwd = at("etc/passwd");
    for (flag, path, code, words) in [
        ("--ca-file", passwd.clone(), 2, "holds no PEM certificate"),
        ("--ca-file", file("cut", &pem[..pem.len() / 2]), 2, "PEM"),
        ("--ca-file", file("none", b""), 2, "holds no PEM certificate"),
        ("--ca-file", file("wide", b"\xff\xfe-\0-\0"), 1, "wide"),
        ("--ca-file", at("absent"), 1, "absent"),
        ("--keyring", passwd, 2, "no signed keyring"),
        ("--keyring", file("junk", b"junk\n"), 2, "neither a keyring nor a fingerprint"),
        ("--keyring", file("nothing", b"\n"), 2, "it is empty"),
        ("--keyring", file("forged", forged.as_bytes()), 2, "keyring"),
        ("--keyring", file("backwards", [owner.keyring(2), owner.keyring(1)].join("\n").as_bytes()), 2, "keyring"),
        ("--token-file", at("spaces"), 1, "characters other than letters"),
        ("--token-file", at("empty"), 1, "it is empty"),
        ("--token-file", at("long"), 1, "long"),
        ("--token-file", at("absent"), 1, "absent"),
    ] {
        let present = machine.listing();
        for dry in [&[][..], &["--dry-run"]] {
            let output = machine.run(&[&CARD[..], &[flag, &path], dry].concat());
            says(&output, code, &[words]);
            let text = said(&output).1;
            assert!(
                !text.contains("stopped") && !text.contains("wrote") && !text.contains("would"),
                "{flag} {path}: {text}"
            );
        }
        assert_eq!(machine.listing(), present, "{flag} {path}");
        assert_eq!(["ca", "keyring", "token"].map(held), before, "{flag} {path}");
    }
    // One that waits from before is looked at as well, unless another one comes.
    write_secret(&machine.path("etc/pullet/credentials/pullet.token"), "two words");
    for dry in [&[][..], &["--dry-run"]] {
        says(&machine.run(&[&CARD[..], dry].concat()), 1, &["characters other than letters"]);
    }
    says(&machine.run(&[&CARD[..], &["--token-file", &token]].concat()), 0, &["wrote", "pullet.token"]);
    assert_eq!(["ca", "keyring", "token"].map(held), before);
}

#[test]
fn a_setting_over_several_lines_is_named_before_anything_is_made() {
    let machine = card();
    fs::create_dir_all(machine.path("etc/pullet")).unwrap();
    let toml = "endpoint = \"https://a\"\nallow_chart = [\n  \"https://x\",\n]\nwait = 5\n";
    fs::write(machine.path("etc/pullet/pullet.toml"), toml).unwrap();
    let before = machine.listing();
    let line = ["setup", "--no-start", "--target", "directory", "--directory", "/d", "--wait", "7"];
    let output = machine.run(&[&line[..], &["--allow-chart", "https://c.example"]].concat());
    says(&output, 2, &["allow_chart = ", "https://c.example", "pullet.toml by hand"]);
    assert_eq!((machine.listing(), machine.read("etc/pullet/pullet.toml")), (before, toml.to_owned()));
    // What stands on a line of its own is changed beside it.
    says(&machine.run(&line), 0, &["wrote /etc/pullet/pullet.toml"]);
    let expected = toml.replace("wait = 5", "wait = 7") + "directory = \"/d\"\ntarget = \"directory\"\n";
    assert_eq!(machine.read("etc/pullet/pullet.toml"), expected);
}

#[test]
fn a_card_starts_the_agent_with_its_first_start_and_lets_it_write_to_its_directory() {
    let machine = card();
    let wanted = "etc/systemd/system/multi-user.target.wants/pullet.service";
    let drop_in = "etc/systemd/system/pullet.service.d/directory.conf";
    let before = machine.listing();
    says(
        &machine.run(&[&CARD[..], &["--dry-run"]].concat()),
        0,
        &[
            "would make /srv/applied (0700 pullet:pullet)",
            &format!("would write /{drop_in}"),
            &format!("make /{wanted}"),
        ],
    );
    assert_eq!(machine.listing(), before);
    says(&machine.run(&CARD), 0, &["made /srv/applied (0700 pullet:pullet)", "with its first start\n"]);
    assert_eq!(fs::read_link(machine.path(wanted)).unwrap().to_str(), Some("/etc/systemd/system/pullet.service"));
    assert_eq!(machine.read(drop_in), "[Service]\nReadWritePaths=\"-/srv/applied\"\n");
    assert!(machine.mode("srv/applied").starts_with("0700 "), "{}", machine.mode("srv/applied"));
    assert!(machine.mode(drop_in).starts_with("0644 "));
    // Again; another directory, which is there and somebody else's; and the one that the unit opens by itself.
    let after = machine.listing();
    says(&machine.run(&CARD), 0, &["directory.conf is as it should be"]);
    assert_eq!(machine.listing(), after);
    fs::create_dir(machine.path("100% \"mine\"")).unwrap();
    fs::write(machine.path("100% \"mine\"/a"), "").unwrap();
    let [first @ .., _] = CARD;
    let output = machine.run(&[&first[..], &["/100% \"mine\""]].concat());
    says(&output, 0, &["wrote /etc/systemd/system/pullet.service.d/directory.conf"]);
    assert!(!said(&output).1.contains("made "), "{}", said(&output).1);
    assert_eq!(machine.read(drop_in), "[Service]\nReadWritePaths=\"-/100%% \\\"mine\\\"\"\n");
    says(&machine.run(&[&first[..], &["/var/lib/rancher/k3s/server/manifests/pullet"]].concat()), 0, &["removed /"]);
    assert!(!machine.path(drop_in).exists() && !machine.path("var/lib/rancher").exists());
    // All of it goes again, but what others put there.
    says(&machine.run(&CARD), 0, &["directory.conf"]);
    let theirs = machine.path("etc/systemd/system/pullet.service.d/theirs.conf");
    fs::write(&theirs, "").unwrap();
    says(&machine.run(&["uninstall"]), 0, &[&format!("removed /{wanted}"), &format!("removed /{drop_in}")]);
    assert!(machine.path(wanted).symlink_metadata().is_err() && !machine.path(drop_in).exists() && theirs.exists());
    fs::remove_file(&theirs).unwrap();
    says(&machine.run(&CARD), 0, &["directory.conf"]);
    says(&machine.run(&["uninstall"]), 0, &["removed"]);
    assert!(!machine.path("etc/systemd/system/pullet.service.d").exists() && machine.path("srv/applied").exists());
}

#[test]
fn a_card_of_another_architecture_gets_no_program_that_cannot_run_there() {
    let machine = card();
    let ours = fs::read(machine.path("usr/bin/pullet")).unwrap();
    let mut head = ours[..64].to_vec();
    head[18] ^= 1;
    fs::create_dir_all(machine.path("usr/lib/systemd")).unwrap();
    let systemd = machine.path("usr/lib/systemd/systemd");
    fs::write(&systemd, &head).unwrap();
    // One that lies there, and none.
    for _ in 0..2 {
        let before = machine.listing();
        for dry in [&[][..], &["--dry-run"]] {
            says(&machine.run(&[&CARD[..], dry].concat()), 2, &["another architecture", "/usr/local/bin/pullet"]);
        }
        assert_eq!(machine.listing(), before);
        let _ = fs::remove_file(machine.path("usr/bin/pullet"));
    }
    // What cannot be told is no reason: a script, a short file, a link out of the card.
    for text in [&b"#!/bin/sh\n"[..], &head[..19], &[]] {
        fs::write(&systemd, text).unwrap();
        says(&machine.run(&[&CARD[..], &["--dry-run"]].concat()), 0, &["would write /usr/local/bin/pullet"]);
    }
    // The program of that machine, put there as it was said.
    fs::write(&systemd, &head).unwrap();
    fs::create_dir_all(machine.path("usr/local/bin")).unwrap();
    fs::write(machine.path("usr/local/bin/pullet"), &head).unwrap();
    says(&machine.run(&CARD), 0, &["nothing was started"]);
    assert_eq!(fs::read(machine.path("usr/local/bin/pullet")).unwrap(), head);
    // And one like ours is found by the shell where there is no systemd, and gets ours.
    let machine = card();
    fs::remove_file(machine.path("usr/bin/pullet")).unwrap();
    symlink("/bin/sh", machine.path("bin/sh")).unwrap();
    says(&machine.run(&CARD), 0, &["wrote /usr/local/bin/pullet (0755 root:root)"]);
    assert_eq!(fs::read(machine.path("usr/local/bin/pullet")).unwrap(), ours);
}
