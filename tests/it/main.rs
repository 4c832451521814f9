//! Behaviour tests, one module a subject.

mod directory;
