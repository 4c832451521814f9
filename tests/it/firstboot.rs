//! What takes the configuration from the boot partition, run as it is, below a root of its own; and the image it comes in.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::scene::says;

const TOKEN: &str = "abcdefghijklmnopqrstuvwx\n";

const CONFIG: &str = "endpoint = \"https://control.example\"\n";

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

/// What changes something, in the order of its first use.
const ACTS: [&str; 7] = ["install", "rm", "sed", "chown", "chmod", "sync", "mv"];

fn source(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A root with a boot partition.
struct Card(TempDir);

impl Card {
    fn new() -> Self {
        let card = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(card.boot("")).unwrap();
        card
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn boot(&self, name: &str) -> PathBuf {
        self.path("boot/firmware").join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("etc/pullet/pullet.toml")
    }

    /// What stands on the boot partition for a person.
    fn error(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.boot("pullet-error.txt")).unwrap()).into_owned()
    }

    fn credential(&self, name: &str) -> PathBuf {
        self.path("etc/pullet/credentials").join(name)
    }

    /// Runs it, with `before` before everything else that is looked for.
    fn boots(&self, before: Option<&Path>) -> Output {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pullet"));
        let mut path = OsString::new();
        if let Some(before) = before {
            path.push(before);
            path.push(":");
        }
        path.push(binary.parent().unwrap());
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        let mut command = Command::new("/bin/sh");
        command.arg(source("systemd/pullet-firstboot")).arg(self.0.path()).env("PATH", path).stdin(Stdio::null());
        command.output().unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_lies_on_the_boot_partition_is_taken_closed_to_others_and_removed_there() {
    let card = Card::new();
    // As an editor of another system writes it.
    fs::write(card.boot("pullet.toml"), format!("\u{feff}{}", CONFIG.replace('\n', "\r\n"))).unwrap();
    fs::write(card.boot("pullet.token"), TOKEN).unwrap();
    fs::write(card.path("boot/pullet.ca"), CERTIFICATE).unwrap();
    says(&card.boots(None), 0, &["pullet.toml is now", "pullet.token is now", "pullet.ca is now"]);
    assert_eq!(fs::read_to_string(card.config()).unwrap(), CONFIG.replace('\n', "\r\n"));
    assert_eq!(fs::read_to_string(card.credential("pullet.token")).unwrap(), TOKEN);
    assert_eq!(fs::read_to_string(card.credential("pullet.ca")).unwrap(), CERTIFICATE);
    assert_eq!((mode(&card.config()), mode(&card.credential("pullet.token"))), (0o640, 0o600));
    assert_eq!(mode(&card.credential("")), 0o700);
    assert_eq!(fs::read_dir(card.boot("")).unwrap().count(), 0);
    // Nothing there is nothing to do, and another one takes the place of the first.
    says(&card.boots(None), 0, &[]);
    let another = "x".repeat(22);
    fs::write(card.boot("pullet.token"), &another).unwrap();
    says(&card.boots(None), 0, &[]);
    assert_eq!(fs::read_to_string(card.credential("pullet.token")).unwrap().trim_end(), another);
}

#[test]
fn what_cannot_be_taken_is_named_and_left_and_what_can_be_is_taken() {
    let card = Card::new();
    let outside = card.path("outside");
    fs::write(&outside, "of somebody else").unwrap();
    let place = card.boot("pullet.keyring");
    let refused = |words: &[&str]| {
        fs::write(card.boot("pullet.token"), TOKEN).unwrap();
        says(&card.boots(None), 1, words);
        assert!(place.symlink_metadata().is_ok() && !card.credential("pullet.keyring").exists());
        assert!(!card.boot("pullet.token").exists() && card.credential("pullet.token").exists());
        assert!(card.error().contains("\npullet.keyring is "), "{}", card.error());
        assert_eq!(fs::read_dir(card.credential("")).unwrap().count(), 1, "no draft is left");
    };
    std::os::unix::fs::symlink(&outside, &place).unwrap();
    refused(&["pullet.keyring is not a file; it is left there"]);
    fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink("/nowhere", &place).unwrap();
    refused(&["pullet.keyring is not a file"]);
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    refused(&["pullet.keyring is not a file"]);
    fs::remove_dir(&place).unwrap();
    for (content, words) in [("", "is empty"), (" \r\n", "is empty"), ("\u{feff}", "is empty")] {
        fs::write(&place, content).unwrap();
        refused(&[words]);
    }
    let keyring = |bytes: usize| format!("a.b.{}", "x".repeat(bytes - 4));
    fs::write(&place, keyring(65_537)).unwrap();
    refused(&["is larger than 65536 bytes"]);
    fs::write(&place, keyring(65_536)).unwrap();
    says(&card.boots(None), 0, &[]);
    assert_eq!(fs::metadata(card.credential("pullet.keyring")).unwrap().len(), 65_536);

    fs::write(card.boot("pullet.toml"), "endpiont = 1\n").unwrap();
    says(&card.boots(None), 1, &["pullet.toml is no configuration: pullet: pullet.toml: ", "did you mean endpoint"]);
    assert!(card.boot("pullet.toml").exists() && !card.config().exists());
    fs::rename(card.boot("pullet.toml"), card.boot("pullet.toml.txt")).unwrap();
    says(&card.boots(None), 1, &["pullet.toml.txt should be called pullet.toml"]);
}

#[test]
fn what_the_agent_could_not_use_is_refused_and_what_worked_stays() {
    let card = Card::new();
    let works = [
        ("pullet.toml", CONFIG.to_owned()),
        ("pullet.token", TOKEN.to_owned()),
        ("pullet.keyring", format!("{}\r\n", "k".repeat(43))),
        ("pullet.ca", CERTIFICATE.to_owned()),
    ];
    let put = |name: &str, content: &[u8]| fs::write(card.boot(name), content).unwrap();
    works.iter().for_each(|(name, content)| put(name, content.as_bytes()));
    says(&card.boots(None), 0, &[]);
    // As another system's shell writes it.
    let utf_16: Vec<u8> = format!("\u{feff}{TOKEN}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes: Vec<u8> = (0..500_u32).map(|at| u8::try_from(at * 7 % 256).unwrap()).collect();
    for (name, content, words) in [
        ("pullet.toml", &b"#endpoint = \"https://control.example\"\n"[..], "does not say where the control plane is"),
        ("pullet.toml", &bytes, "is no plain text"),
        ("pullet.token", &utf_16, "is no plain text (is it UTF-16"),
        ("pullet.token", &bytes, "is no plain text"),
        ("pullet.token", &TOKEN.as_bytes()[..21], "is no token"),
        ("pullet.token", "x".repeat(8193).as_bytes(), "is no token"),
        ("pullet.token", "abcdefghijklmnopqrstuvwxé".as_bytes(), "is no token"),
        ("pullet.token", format!("{TOKEN}{TOKEN}").as_bytes(), "is no token"),
        ("pullet.keyring", b"nonsense\n", "is no keyring"),
        ("pullet.keyring", format!("{}\na.b.c\n", "k".repeat(43)).as_bytes(), "is no keyring"),
        ("pullet.keyring", b"a.b.c a.b.c\n", "is no keyring"),
        ("pullet.ca", b"nonsense\n", "holds no certificate"),
        ("pullet.ca", &CERTIFICATE.as_bytes()[..40], "holds no certificate"),
    ] {
        put(name, content);
        says(&card.boots(None), 1, &[name, words]);
        assert!(card.error().contains(&format!("\n{name} {words}")), "{words}: {}", card.error());
        assert_eq!(fs::read(card.boot(name)).unwrap(), content, "{words}: it is not there any more");
        for (name, content) in &works {
            let to = if *name == "pullet.toml" { card.config() } else { card.credential(name) };
            assert_eq!(fs::read_to_string(to).unwrap(), *content, "{words}");
        }
        fs::remove_file(card.boot(name)).unwrap();
    }
    // The longest token, and a node that has registered needs no address any more.
    put("pullet.token", "x".repeat(8192).as_bytes());
    fs::create_dir_all(card.path("var/lib/pullet")).unwrap();
    fs::write(card.path("var/lib/pullet/credential.json"), "{}").unwrap();
    put("pullet.toml", b"wait = 5\n");
    says(&card.boots(None), 0, &[]);
    assert_eq!(fs::read_dir(card.boot("")).unwrap().count(), 0);
}

#[test]
fn what_is_wrong_stands_on_the_boot_partition_once_and_bounded_until_it_is_right() {
    let card = Card::new();
    fs::write(card.boot("pullet.token"), "short").unwrap();
    fs::write(card.boot("pullet.ca.txt"), CERTIFICATE).unwrap();
    says(&card.boots(None), 1, &[]);
    let text = card.error();
    assert!(text.starts_with("Pullet cannot use this."), "{text}");
    assert!(text.contains("\npullet.token is no token"), "{text}");
    assert!(text.contains("\npullet.ca.txt should be called pullet.ca "), "{text}");
    // A card does not like to be written at each boot.
    let written = |card: &Card| fs::metadata(card.boot("pullet-error.txt")).unwrap().modified().unwrap();
    let first = written(&card);
    says(&card.boots(None), 1, &[]);
    assert_eq!((written(&card), card.error()), (first, text.clone()));
    // A half of it, as the power left it, is written anew.
    fs::write(card.boot("pullet-error.txt"), &text[..20]).unwrap();
    says(&card.boots(None), 1, &[]);
    assert_eq!(card.error(), text);
    // What was put right is not named any more, and nothing is said of nothing.
    fs::rename(card.boot("pullet.ca.txt"), card.boot("pullet.ca")).unwrap();
    says(&card.boots(None), 1, &[]);
    assert!(card.error().contains("pullet.token is") && !card.error().contains("pullet.ca"), "{}", card.error());
    fs::remove_file(card.boot("pullet.token")).unwrap();
    says(&card.boots(None), 0, &[]);
    assert_eq!(fs::read_dir(card.boot("")).unwrap().count(), 0);

    fs::write(card.boot("pullet.toml"), format!("{} = 1\n", "\u{e4}x".repeat(20_000))).unwrap();
    says(&card.boots(None), 1, &["is no configuration"]);
    assert!(fs::metadata(card.boot("pullet-error.txt")).unwrap().len() <= 4001);
    // The unit runs where there is nothing but this left.
    let unit = fs::read_to_string(source("systemd/pullet-firstboot.service")).unwrap();
    for boot in ["/boot", "/boot/firmware"] {
        assert!(unit.contains(&format!("ConditionPathExistsGlob=|{boot}/pullet-error.txt\n")));
    }
}

#[test]
fn the_same_file_put_there_again_is_taken_again() {
    let card = Card::new();
    for _ in 0..2 {
        fs::write(card.boot("pullet.toml"), CONFIG).unwrap();
        says(&card.boots(None), 0, &["pullet.toml is now"]);
        assert_eq!(fs::read_to_string(card.config()).unwrap(), CONFIG);
        // What a person broke on the node, and means to mend with the card.
        fs::write(card.config(), "endpiont = 1\n").unwrap();
    }
}

#[test]
fn a_power_cut_at_any_point_loses_no_file_and_the_next_boot_ends_what_was_begun() {
    for dies_after in [false, true] {
        let mut cuts = 0;
        for cut in 1.. {
            let card = Card::new();
            fs::write(card.boot("pullet.toml"), CONFIG).unwrap();
            fs::write(card.boot("pullet.token"), TOKEN).unwrap();
            let tools = card.path("tools");
            fs::create_dir(&tools).unwrap();
            let count = tools.join("count");
            fs::write(&count, "").unwrap();
            for tool in ACTS {
                let count = count.display();
                let act = format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin {tool} \"$@\"");
                let die = format!("[ $(stat -c %s {count}) != {cut} ] || kill -9 $PPID");
                let (first, then) = if dies_after { (act, die) } else { (die, act) };
                script(
                    &tools.join(tool),
                    &format!("#!/bin/sh\nprintf x >>{count}\n{first}\nended=$?\n{then}\nexit $ended\n"),
                );
            }
            let ended = card.boots(Some(&tools));
            if ended.status.code().is_some() {
                break;
            }
            cuts += 1;
            for (from, to, text) in [
                (card.boot("pullet.toml"), card.config(), CONFIG),
                (card.boot("pullet.token"), card.credential("pullet.token"), TOKEN),
            ] {
                let is = |path: &Path| fs::read_to_string(path).is_ok_and(|found| found == text);
                assert!(is(&from) || is(&to), "cut {cut}: neither {} nor {}", from.display(), to.display());
                assert!(!to.exists() || is(&to), "cut {cut}: half of {}", to.display());
            }
            says(&card.boots(None), 0, &[]);
            assert_eq!(fs::read_to_string(card.config()).unwrap(), CONFIG, "cut {cut}");
            assert_eq!(fs::read_to_string(card.credential("pullet.token")).unwrap(), TOKEN, "cut {cut}");
            assert_eq!(fs::read_dir(card.boot("")).unwrap().count(), 0, "cut {cut}");
            assert_eq!(fs::read_dir(card.credential("")).unwrap().count(), 1, "cut {cut}: a draft is left");
        }
        assert!(cuts >= 16, "only {cuts} points to cut at");
    }
}

#[test]
fn a_boot_partition_that_nobody_can_write_is_taken_once_and_what_was_changed_since_stays() {
    let card = Card::new();
    fs::write(card.boot("pullet.toml"), CONFIG).unwrap();
    let tools = card.path("tools");
    fs::create_dir(&tools).unwrap();
    script(&tools.join("rm"), "#!/bin/sh\ncase \"$*\" in */boot/*) exit 1 ;; esac\nexec /bin/rm \"$@\"\n");
    says(&card.boots(Some(&tools)), 1, &["cannot be removed, so whoever has the card can read it"]);
    let changed = "endpoint = \"https://other.example\"\n";
    fs::write(card.config(), changed).unwrap();
    says(&card.boots(Some(&tools)), 1, &["cannot be removed"]);
    assert_eq!(fs::read_to_string(card.config()).unwrap(), changed);
    says(&card.boots(None), 0, &[]);
    assert_eq!(fs::read_to_string(card.config()).unwrap(), changed);
    assert!(!card.boot("pullet.toml").exists());
    // Now it is gone, and what is put there is a new wish.
    fs::write(card.boot("pullet.toml"), CONFIG).unwrap();
    says(&card.boots(None), 0, &["pullet.toml is now"]);
    assert_eq!(fs::read_to_string(card.config()).unwrap(), CONFIG);
}

/// Runs a program of the system; those that make file systems lie in /sbin.
fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("MTOOLS_SKIP_CHECK", "1");
    // Nothing is built there, whatever was built here before.
    command.env("CARGO_TARGET_DIR", "/nowhere");
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// The first bytes of a program for a machine (ELF, `EI_CLASS` and `e_machine`).
fn program(class: u8, machine: u8) -> Vec<u8> {
    let identification = [&b"\x7fELF"[..], &[class, 1, 1], &[0; 9]].concat();
    [&identification[..], &[2, 0, machine, 0], b"and so on"].concat()
}

/// An image as of Raspberry Pi OS: a boot partition and one of Linux, with as little of a system as is looked for.
fn image(directory: &Path) -> PathBuf {
    let (image, table, tree) = (directory.join("raspios.img"), directory.join("table"), directory.join("tree"));
    for path in ["usr/bin/systemctl", "usr/lib/ld-linux-aarch64.so.1", "etc/systemd/system/other.service"] {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::write(tree.join(path), "").unwrap();
    }
    fs::write(&table, "label: dos\nstart=2048, size=81920, type=c\nstart=83968, type=83\n").unwrap();
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let (name, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
    let made = [
        run("sh", &["-c", &format!("sfdisk -q {name} <{}", table.display())]),
        run("mkfs.vfat", &["-F", "32", "-s", "1", "--offset", "2048", name, "40960"]),
        run("mkfs.ext4", &["-q", "-E", "offset=42991616", "-d", tree, name, "22M"]),
    ];
    assert!(made.iter().all(|output| output.status.success()), "{made:?}");
    image
}

#[test]
#[ignore = "needs mtools, dosfstools, fdisk and e2fsprogs, to make an image and look into it"]
fn an_image_has_the_agent_its_units_and_what_was_given_on_its_boot_partition() {
    let directory = tempfile::tempdir().unwrap();
    let original = image(directory.path());
    let file = |name: &str, content: &[u8]| {
        fs::write(directory.path().join(name), content).unwrap();
        directory.path().join(name).to_str().unwrap().to_owned()
    };
    let (config, token) = (file("c", CONFIG.as_bytes()), file("t", TOKEN.as_bytes()));
    let binary = file("b", &program(2, 0xb7));
    let output = directory.path().join("pi.img");
    let (name, original) = (output.to_str().unwrap(), original.to_str().unwrap());
    let make =
        |more: &[&str], image: &str| run(source("cross/pi-image").to_str().unwrap(), &[more, &[image, name]].concat());
    let given = ["--binary", &binary, "--config", &config, "--token", &token];
    says(&make(&given, original), 0, &["Pullet is in it"]);
    let boot = |file: &str| run("mtype", &["-i", &format!("{name}@@1048576"), &format!("::{file}")]).stdout;
    assert_eq!(boot("pullet.toml"), CONFIG.as_bytes());
    assert_eq!(boot("pullet.token"), TOKEN.as_bytes());
    let inner = format!("{name}?offset=42991616");
    let root = |command: &str| String::from_utf8_lossy(&run("debugfs", &["-R", command, &inner]).stdout).into_owned();
    for (path, from, mode) in [
        ("/usr/local/bin/pullet", binary.as_str(), "0755"),
        ("/etc/systemd/system/pullet.service", "systemd/pullet.service", "0644"),
        ("/etc/systemd/system/pullet-firstboot.service", "systemd/pullet-firstboot.service", "0644"),
        ("/usr/lib/pullet/pullet-firstboot", "systemd/pullet-firstboot", "0755"),
        ("/usr/lib/sysusers.d/pullet.conf", "systemd/pullet.sysusers", "0644"),
        ("/usr/lib/tmpfiles.d/pullet.conf", "systemd/pullet.tmpfiles", "0644"),
    ] {
        let expected = fs::read(source(from)).unwrap();
        assert_eq!(root(&format!("cat {path}")), String::from_utf8_lossy(&expected), "{path}");
        let stat = root(&format!("stat {path}"));
        assert!(stat.contains(&format!("Mode:  {mode}")) && stat.contains("User:     0"), "{path}: {stat}");
    }
    for unit in ["pullet.service", "pullet-firstboot.service"] {
        let stat = root(&format!("stat /etc/systemd/system/multi-user.target.wants/{unit}"));
        assert!(stat.contains(&format!("\"/etc/systemd/system/{unit}\"")), "{stat}");
    }
    // One that is there is not written over, and what is no such image is not touched.
    says(&make(&given, original), 1, &["is there already"]);
    fs::remove_file(&output).unwrap();
    says(&make(&[], original), 1, &["no /nowhere/dist/pullet-aarch64-unknown-linux-musl", "--binary"]);
    let other = file("other", &[b'x'; 4096]);
    says(&make(&given, &other), 1, &["no image of Raspberry Pi OS"]);
    says(&make(&["--binary"], original), 2, &["usage: cross/pi-image"]);
    says(&make(&["--binary", ""], original), 1, &["--binary needs a file"]);
    // What could not run or would not be taken is not put there.
    for (content, words) in [
        (&program(2, 0x3e)[..], "is not for 64-bit ARM, which the image is for"),
        (&program(1, 0x28), "is not for 64-bit ARM, which the image is for"),
        (&program(2, 0xb7)[..19], "is no program"),
        (b"#!/bin/sh\nexec pullet\n", "is no program"),
    ] {
        says(&make(&["--binary", &file("wrong", content)], original), 1, &[words]);
    }
    for (flag, words) in [
        ("--config", "pullet.toml does not say where the control plane is"),
        ("--token", "pullet.token is no token"),
        ("--keyring", "pullet.keyring is no keyring"),
        ("--ca", "pullet.ca holds no certificate"),
    ] {
        let wrong = file("wrong", b"root:x:0:0:root:/root:/bin/bash\n");
        says(&make(&["--binary", &binary, flag, &wrong], original), 1, &["this could not work", words]);
    }
    // An image that is not whole, by one byte, and one without a boot partition.
    let whole = fs::metadata(original).unwrap().len();
    let image = fs::OpenOptions::new().write(true).open(original).unwrap();
    image.set_len(whole - 1).unwrap();
    says(&make(&given, original), 1, &["is cut off: its partitions end at byte"]);
    image.set_len(whole).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &[0; 4096], 1 << 20).unwrap();
    says(&make(&given, original), 1, &["holds no FAT file system"]);
    assert!(!output.exists() && !directory.path().join("pi.img.new").exists());
}
