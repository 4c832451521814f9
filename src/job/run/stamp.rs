//! Whether a job was done already, told by its object: the journal that knew it may be lost, or may not have got to know
//! it before the power went.

use tracing::info;

use super::super::ledger::KeyHash;
use super::super::machine::Done;
use super::Runner;
use crate::protocol::{JobId, Manifest};
use crate::target::TargetError;

impl Runner {
    /// What was done for the job before. Costs a request, and so is asked only where it may be done: where the ledger may
    /// have lost the key, for a job that was open when the agent ended, and for one whose request got no answer.
    pub(super) async fn done_before(
        &self,
        id: &JobId,
        may_be_done: bool,
        manifest: &Manifest<'_>,
    ) -> Result<Option<Done>, TargetError> {
        let key = self.book().ledger.of_open(id).0.map(KeyHash::stamp);
        let (true, Some(key)) = (may_be_done, key) else { return Ok(None) };
        match self.parts.target.stamp(&manifest.reference()).await {
            Ok(Some(stamp)) if stamp.key_hash.as_ref() == Some(&key) => {
                info!(job = %id, "the object carries the stamp of this job already; it is not applied again");
                Ok(Some(Done::Found(stamp.reference, stamp.readiness)))
            }
            // Whatever else is wrong is for the apply to say.
            Err(error @ TargetError::Unavailable(_)) => Err(error),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}
