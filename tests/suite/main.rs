//! The suites that need nothing but the tree and the binary.
