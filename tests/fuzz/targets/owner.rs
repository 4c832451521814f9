//! The files that the owner writes.

use std::path::PathBuf;
use std::sync::LazyLock;

use pullet::config::{Config, Settings};
use pullet::net::PlainHttp;
use pullet::target::kubernetes::{Access, Surroundings, Wish};

/// In memory where that can be had.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("there is a place for a file")
});

fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = PLACE.path().join(name);
    std::fs::write(&path, data).expect("there is room for a file");
    path
}

pub(crate) fn config(data: &[u8]) {
    let settings = Settings { config: Some(file("pullet.toml", data)), ..Settings::default() };
    let read = settings.with_file().and_then(|settings| Config::new(settings, |_| None));
    if let Err(error) = read {
        assert!(!error.to_string().is_empty());
    }
}

pub(crate) fn kubeconfig(data: &[u8]) {
    // A kubeconfig may name files; those of this machine are nobody's business here.
    if data.windows(5).any(|part| part == b"/dev/" || part == b"/proc" || part == b"/sys/") {
        return;
    }
    let wish = Wish {
        kubeconfig: Some(file("kubeconfig", data)),
        context: None,
        foreground_root: false,
        plain_http: PlainHttp::Refused,
    };
    let surroundings = Surroundings { variable: &|_| None, root: PLACE.path().to_owned() };
    if let Err(error) = Access::find(&wish, &surroundings) {
        assert!(!error.to_string().is_empty());
    }
}
