//! Jobs: from their arrival to their result.
//!
//! What may pass is found out in [`gate`]; what happens is decided in [`machine`], which does nothing; [`run`] does what it
//! says and decides nothing; [`ledger`] remembers what was done.

pub mod check;
pub mod gate;
pub mod ledger;
pub mod machine;
pub mod run;
