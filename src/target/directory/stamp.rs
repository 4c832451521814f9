//! What the file of an object says about the job that wrote it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::{Directory, Place, SILENT, Slot, check_scope};
use crate::json;
use crate::limits;
use crate::protocol::ObjectRef;
use crate::target::TargetError;
use crate::target::stamp::{Marks, Stamp};

/// An object of a job, with the labels and annotations that were added to it.
const FILE_BYTES: u64 = 2 * limits::JOB_BYTES as u64;

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Directory {
    pub(super) async fn read_stamp(&self, object: &ObjectRef) -> Result<Option<Stamp>, TargetError> {
        check_scope(object)?;
        let slot = Slot::of(object);
        let text = self.on_disk(move |place| place.text(&slot)).await?;
        Ok(text.and_then(|text| stamp(&text, object, &self.cluster_id)))
    }
}

impl Place {
    /// None when there is no file, or one that none of our jobs can have made.
    fn text(&self, slot: &Slot) -> Result<Option<Vec<u8>>, TargetError> {
        if !self.holds(slot)? {
            return Ok(None);
        }
        let text = self.read(slot).map_err(|error| self.fault("read", &slot.file, error))?;
        Ok(u64::try_from(text.len()).is_ok_and(|len| len <= FILE_BYTES).then_some(text))
    }

    fn read(&self, slot: &Slot) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.handle, &slot.file, flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(FILE_BYTES + 1).read_to_end(&mut text)?;
        Ok(text)
    }
}

/// A file that is spoilt, or emptied by a delete, has none.
fn stamp(text: &[u8], object: &ObjectRef, cluster_id: &str) -> Option<Stamp> {
    let found: Object = json::read(text).ok()?;
    let mut marks = Marks::default();
    found.metadata.labels.iter().for_each(|(name, value)| marks.label(name, value, cluster_id));
    found.metadata.annotations.iter().for_each(|(name, value)| marks.annotation(name, value));
    let reference = ObjectRef { uid: String::new(), generation: None, ..object.clone() };
    marks.into_stamp(reference, SILENT)
}
