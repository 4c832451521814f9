//! The directory target: one object per file.
