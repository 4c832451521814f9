//! The machine, and the agent that runs on it.

use std::path::Path;

use super::{Check, Desk, Patient, Verdict, read};
use crate::clock;
use crate::limits;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    examine_agent(patient, desk);
    examine_memory(patient, desk);
    let kernel = rustix::system::uname();
    let (machine, release) = (kernel.machine().to_string_lossy(), kernel.release().to_string_lossy());
    let (verdict, mend) = judge_machine(Built::OURS, &machine, &release);
    let seen = ["Linux ", &release, " on ", &machine, ", by the ", Built::OURS.name, " build"];
    desk.say(Check::Machine, verdict, &seen, mend);
}

fn examine_agent(patient: &Patient, desk: &Desk) {
    let check = Check::Agent;
    match &patient.agent {
        Ok(status) => match status.fault(clock::unix_seconds()) {
            None => {
                let pid = status.pid.to_string();
                desk.ok(check, &["process ", &pid, ", pullet ", &status.agent, ", is connected"]);
            }
            Some(fault) => desk.warn(check, &[&fault], "see the checks above, and pullet status"),
        },
        Err(why) => match holder_of_lock(&patient.config.state_dir) {
            Some(pid) => {
                let seen = ["process ", &pid.to_string(), " uses the state directory, but ", why];
                desk.say(check, Verdict::Note, &seen, "give its --status-file, or the --config it runs with");
            }
            None => desk.warn(check, &[why], "systemctl start pullet; if it does not stay: journalctl -u pullet"),
        },
    }
}

/// Who holds the lock of the state directory, as the kernel's table has it: to try it would hold it.
fn holder_of_lock(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(directory).ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let place = format!(" {major:02x}:{minor:02x}:{} ", found.ino());
    let table = read("/proc/locks")?;
    let line = table.lines().find(|line| line.contains("FLOCK") && line.contains(&place))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

fn examine_memory(patient: &Patient, desk: &Desk) {
    // Of the agent where it runs: this command may have another one.
    let pid = patient.agent.as_ref().map_or_else(|_| "self".to_owned(), |status| status.pid.to_string());
    let groups = read(&["/proc/", &pid, "/cgroup"].concat()).unwrap_or_default();
    let limit = memory_limit(&groups, Path::new("/sys/fs/cgroup"));
    let free = read("/proc/meminfo").as_deref().and_then(available);
    let wanted = limits::doctor::MEMORY_BYTES;
    let whose = if pid == "self" { "this command" } else { "the agent" };
    let kilobytes = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| (bytes / 1024).to_string());
    let (group, room) = (kilobytes(limit), kilobytes(free));
    let bound = if limit.is_some() { " kB for " } else { "no limit on " };
    let seen = [&group, bound, whose, "; ", &room, " kB free"];
    if limit.is_some_and(|limit| limit < wanted) {
        desk.warn(Check::Memory, &seen, "give it 16 MiB: MemoryMax= of the unit, or the limit of the pod");
    } else if free.is_some_and(|free| free < wanted) {
        desk.warn(Check::Memory, &seen, "see what takes it: ps aux --sort -rss");
    } else {
        desk.ok(Check::Memory, &seen);
    }
}

/// The smallest limit on the way from a group up, in version 1 or 2 of control groups.
fn memory_limit(groups: &str, root: &Path) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let place = base.join(path.trim_start_matches('/'));
        // Within a container the path is the host's, and what is mounted is the group itself.
        let place = if place.exists() { place } else { base.clone() };
        for group in place.ancestors().take_while(|group| group.starts_with(&base)) {
            let text = group.join(file).to_str().and_then(read).unwrap_or_default();
            // "max", or in version 1 nearly 2^63, is none.
            let limit = text.trim().parse::<u64>().ok().filter(|limit| *limit < 1 << 60);
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// What the kernel could give, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What this binary was built for.
#[derive(Clone, Copy)]
struct Built {
    name: &'static str,
    /// Whether it is for 32 bits.
    is_narrow: bool,
}

impl Built {
    const OURS: Self = Self {
        name: match (cfg!(target_arch = "arm"), cfg!(target_feature = "v7")) {
            (true, false) => "armv6",
            (true, true) => "armv7",
            _ => std::env::consts::ARCH,
        },
        is_narrow: cfg!(target_pointer_width = "32"),
    };
}

/// What a kernel calls a machine with 64 bits.
const WIDE: [&str; 4] = ["aarch64", "riscv64", "s390x", "x86_64"];

/// The kernel on which k3s and the binary's own calls are known to work; and the first one with times beyond 2038 on 32 bits.
const KERNEL: [(u32, u32); 2] = [(4, 15), (5, 1)];

fn judge_machine(built: Built, machine: &str, release: &str) -> (Verdict, &'static str) {
    let Built { name, is_narrow } = built;
    let version = version(release);
    if version.is_some_and(|version| version < KERNEL[0]) {
        return (Verdict::Warning, "update the system: no kernel before 4.15 was ever tried");
    }
    if is_narrow && version.is_some_and(|version| version < KERNEL[1]) {
        return (Verdict::Note, "with 32 bits this kernel ends in January 2038; one from 5.1 on does not");
    }
    if is_narrow && WIDE.contains(&machine) {
        return (
            Verdict::Note,
            "this machine has 64 bits: its own build is the better one where the system is 64-bit too",
        );
    }
    // Not by /proc/cpuinfo: an ARMv6 calls itself 7 there.
    if name == "armv6" && (machine.starts_with("armv7") || machine.starts_with("armv8")) {
        return (Verdict::Note, "it works; there is an armv7 build as well");
    }
    (Verdict::Ok, "")
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Built, available, judge_machine, memory_limit};
    use crate::doctor::Verdict;
    use std::fs;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts_in_either_version() {
        let root = tempfile::tempdir().unwrap();
        let set = |group: &str, file: &str, text: &str| {
            let group = root.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(file), text).unwrap();
        };
        set("system.slice", "memory.max", "8388608\n");
        set("system.slice/pullet.service", "memory.max", "max\n");
        let limit = |groups: &str| memory_limit(groups, root.path());
        assert_eq!(limit("0::/system.slice/pullet.service\n"), Some(8_388_608));
        assert_eq!(limit("0::/other\n"), None);
        set("memory/pod", "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("4:memory:/pod\n1:cpu,cpuacct:/pod\n0::/other\n"), None);
        set("memory/pod", "memory.limit_in_bytes", "16777216\n");
        assert_eq!(limit("4:memory:/pod\n0::/other\n"), Some(16_777_216));
        set("memory", "memory.limit_in_bytes", "1048576\n");
        assert_eq!(limit("4:memory:/of/the/host\n"), Some(1_048_576));
        for garbage in ["", "::", "4:memory", "x\n4:memory:\n", "0::/../../.."] {
            let _ = limit(garbage);
        }
    }

    #[test]
    fn what_the_kernel_could_give_is_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2_097_152));
        for garbage in ["", "MemAvailable:", "MemAvailable: x kB", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(available(garbage), None);
        }
    }

    #[test]
    fn a_build_that_fits_another_machine_better_is_noted() {
        let arm = |name| Built { name, is_narrow: true };
        let pc = Built { name: "x86_64", is_narrow: false };
        for (built, machine, release, expected) in [
            (pc, "x86_64", "6.1.0-18-amd64", Verdict::Ok),
            (pc, "x86_64", "3.10.0-1160.el7", Verdict::Warning),
            (pc, "x86_64", "garbage", Verdict::Ok),
            (arm("armv6"), "armv6l", "6.1.21+", Verdict::Ok),
            (arm("armv6"), "armv7l", "6.1.21-v7+", Verdict::Note),
            (arm("armv7"), "armv7l", "6.1.21-v7+", Verdict::Ok),
            (arm("armv7"), "armv7l", "4.19.66-v7+", Verdict::Note),
            (arm("armv7"), "aarch64", "6.1.21-v8+", Verdict::Note),
        ] {
            let (verdict, mend) = judge_machine(built, machine, release);
            assert_eq!(verdict, expected, "{machine} {release}");
            assert_eq!(mend.is_empty(), verdict == Verdict::Ok, "{machine} {release}");
        }
    }
}
