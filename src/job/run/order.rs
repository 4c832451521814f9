//! Whether a signed job would bring back what a later one has replaced (TRUST.md, Rollback).

use super::Runner;
use crate::protocol::Manifest;
use crate::target::TargetError;
use crate::trust::Permitted;

impl Runner {
    /// The number of the later job that applied the object, if there is one. Costs a signed job one request; others have no
    /// number to compare.
    pub(super) async fn later_job(
        &self,
        permitted: &Permitted<'_>,
        manifest: &Manifest<'_>,
    ) -> Result<Option<u64>, TargetError> {
        if permitted.order().is_none() {
            return Ok(None);
        }
        // Where nobody can tell what is there, nothing is put over it: whatever went wrong, the job ends with it.
        let stamp = self.parts.target.stamp(&manifest.reference()).await?;
        let carried = stamp.and_then(|stamp| stamp.signed);
        Ok(carried.filter(|carried| permitted.is_behind(Some(*carried))).map(|order| order.seq))
    }
}
