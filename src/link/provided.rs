//! What systemd provides to the unit, in `$CREDENTIALS_DIRECTORY`: files that can be read and never written
//! (systemd.exec(5), `LoadCredential=`). One of a byte at most is none: the unit gives an end of line where there is no file,
//! because systemd takes no shorter default.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::credential::StoreError;
use super::seal::Seal;
use super::secret_file::{Closed, open, read_bytes};

/// The variable that names the directory.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The one-time token.
const TOKEN: &str = "pullet.token";

/// The keyring to pin.
const KEYRING: &str = "pullet.keyring";

/// Further authorities, PEM.
const CA: &str = "pullet.ca";

/// A key that wraps what is stored.
const KEY: &str = "pullet.key";

/// What the unit may be handed.
pub const ALL: [&str; 5] = [TOKEN, KEYRING, CA, KEY, "pullet.kubeconfig"];

/// Where systemd takes it from, closed to all but root.
pub const KEPT: &str = "/etc/pullet/credentials";

/// The directory where the environment names none.
static ASSUMED: OnceLock<PathBuf> = OnceLock::new();

/// What the unit's environment is, as systemd shows it.
static UNITS: OnceLock<String> = OnceLock::new();

/// The directory of a unit's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided(PathBuf);

/// Whether a file is one that systemd provides.
#[must_use]
pub fn is_provided(path: &Path) -> bool {
    Provided::find().is_some_and(|provided| path.parent() == Some(provided.0.as_path()))
}

/// What a person does about a one-time token of this file that was refused: what systemd provides is a copy of the start.
#[must_use]
pub fn remedy(token: &Path) -> &'static str {
    if is_provided(token) {
        "the one-time token was refused: put a new one into its file (/etc/pullet/credentials/pullet.token, if the unit says \
         nothing else), and restart the unit"
    } else {
        "the one-time token was refused: put a new one into its file, and it is tried by itself"
    }
}

/// A variable of the environment, or the directory that is looked into where it names none, or what the unit has for proxies.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    let assumed = || match name {
        DIRECTORY => ASSUMED.get()?.to_str().map(str::to_owned),
        _ => value(UNITS.get()?, name),
    };
    std::env::var(name).ok().or_else(assumed)
}

/// The value of a proxy's variable among assignments with blanks between them.
fn value(assignments: &str, name: &str) -> Option<String> {
    let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
    let mut words = assignments.split_whitespace().filter(|_| is_proxy);
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

/// Goes by these assignments from now on where the environment has no proxy: those of the unit, for a person who asks beside it.
pub fn assume_proxies(assignments: String) {
    // Whoever was first stays.
    let _ = UNITS.set(assignments);
}

/// A text for a person, in which what was copied from [`KEPT`] is called by its name there.
#[must_use]
pub fn named(text: String) -> String {
    match ASSUMED.get().and_then(|place| place.to_str()).filter(|place| place.starts_with("/proc/")) {
        Some(place) => text.replace(place, KEPT),
        None => text,
    }
}

impl Provided {
    /// The directory that the environment names; none where it names none, or not from the root.
    #[must_use]
    pub fn find() -> Option<Self> {
        let named = std::env::var_os(DIRECTORY).map(PathBuf::from);
        let directory = named.or_else(|| ASSUMED.get().cloned())?;
        directory.is_absolute().then_some(Self(directory))
    }

    /// Looks here from now on where the environment names no directory: into that of the unit, for a person who asks beside
    /// it.
    pub fn assume(directory: PathBuf) {
        // Whoever was first stays.
        let _ = ASSUMED.set(directory);
    }

    /// The file with the one-time token.
    #[must_use]
    pub fn token(&self) -> Option<PathBuf> {
        self.file(TOKEN)
    }

    /// The file with the keyring to pin.
    #[must_use]
    pub fn keyring(&self) -> Option<PathBuf> {
        self.file(KEYRING)
    }

    /// The file with further authorities.
    #[must_use]
    pub fn ca(&self) -> Option<PathBuf> {
        self.file(CA)
    }

    /// What wraps the stored credential.
    ///
    /// # Errors
    /// When the key is there and cannot be used.
    pub fn seal(&self) -> Result<Option<Seal>, StoreError> {
        let Some(path) = self.file(KEY) else { return Ok(None) };
        let key = read_bytes(open(&path, Closed::BySystemd)?, &path)?;
        match Seal::new(&key) {
            Some(seal) => Ok(Some(seal)),
            None => {
                Err(StoreError::Unsafe(path, "it is shorter than 16 bytes (head -c 32 /dev/urandom makes a good key)"))
            }
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.0.join(name);
        // Opening it will say what is wrong with it, if anything is.
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() <= 1 => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Ok(_) | Err(_) => Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Provided, StoreError, value};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_taken_when_it_is_long_enough_and_closed() {
        let directory = tempfile::tempdir().unwrap();
        let provided = Provided(directory.path().to_owned());
        assert!(provided.seal().unwrap().is_none() && provided.token().is_none() && provided.ca().is_none());
        let path = directory.path().join("pullet.key");
        let set_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&path, [0; 15]).unwrap();
        set_mode(0o600);
        assert!(matches!(provided.seal(), Err(StoreError::Unsafe(_, fault)) if fault.contains("16 bytes")));
        std::fs::write(&path, [0; 16]).unwrap();
        assert!(provided.seal().unwrap().is_some());
        set_mode(0o604);
        assert!(matches!(provided.seal(), Err(StoreError::Unsafe(_, fault)) if fault.contains("chmod 600")));
        std::fs::write(directory.path().join("pullet.token"), "tt").unwrap();
        assert_eq!(provided.token(), Some(directory.path().join("pullet.token")));
    }

    #[test]
    fn of_the_environment_of_the_unit_proxies_count_alone() {
        let text = "A=1 HTTPS_PROXY=http://p:1 no_proxy=a,b KUBECONFIG=/k\n";
        let found = |name| value(text, name);
        assert_eq!(found("HTTPS_PROXY").as_deref(), Some("http://p:1"));
        assert_eq!(found("no_proxy").as_deref(), Some("a,b"));
        assert_eq!([found("KUBECONFIG"), found("ALL_PROXY"), found("A"), value("", "NO_PROXY")], [const { None }; 4]);
    }

    #[test]
    fn a_file_without_content_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let provided = Provided(directory.path().to_owned());
        for (content, is_there) in [("", false), ("\n", false), ("\n\n", true)] {
            for name in ["pullet.ca", "pullet.key", "pullet.keyring", "pullet.token"] {
                let path = directory.path().join(name);
                std::fs::write(&path, content).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }
            let found = [provided.ca(), provided.keyring(), provided.token()];
            assert!(found.iter().all(|found| found.is_some() == is_there), "{content:?}: {found:?}");
            assert_eq!(provided.seal().is_err(), is_there, "{content:?}: too short, or none");
        }
    }
}
