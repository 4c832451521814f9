//! How large the binaries are, and the images around them: of each target whose binary is there and no older than the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::budget::{PROMISED_TARGET, image, sizes};
use super::report::Figure;
use crate::memory::static_binary;

pub(super) fn figures() -> Vec<Figure> {
    let dist: Option<PathBuf> = std::env::var_os("PULLET_DIST").map(Into::into);
    let newest = newest_source();
    let mut figures: Vec<Figure> = Vec::new();
    for (target, budget) in sizes() {
        let binary = if target == PROMISED_TARGET {
            Some(static_binary())
        } else {
            dist.as_ref().map(|dist| dist.join(format!("pullet-{target}"))).filter(|binary| made(binary) >= newest)
        };
        if let Some(binary) = binary {
            let what = budget.about.clone();
            figures.push(Figure::by(budget, what, whole(fs::metadata(binary).unwrap().len())));
        }
    }
    let images = dist.iter().flat_map(|dist| fs::read_dir(dist).into_iter().flatten().flatten());
    let images = images.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-image.tar"));
    // One of an older version may lie there as well.
    let Some(archive) = images.filter(|path| made(path) >= newest).max_by_key(|path| made(path)) else {
        return figures;
    };
    let output = Command::new("cross/image").arg("--more").arg(&archive).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in text.lines() {
        let (architecture, more) = line.split_once(' ').expect("an architecture, and a number");
        let what = format!("image for {}, more than its binary", architecture.trim());
        figures.push(Figure::by(image(), what, more.trim().parse().expect("a number")));
    }
    figures
}

fn whole(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("it is no larger than 4 GB"))
}

fn made(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// When something was last changed that a binary is made of.
fn newest_source() -> Option<SystemTime> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = ["src", "Cargo.toml", "Cargo.lock"].map(|name| root.join(name)).to_vec();
    let mut newest = None;
    while let Some(place) = places.pop() {
        newest = newest.max(made(&place));
        places.extend(fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    newest
}
