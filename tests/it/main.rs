//! Behaviour tests, one module a subject.
