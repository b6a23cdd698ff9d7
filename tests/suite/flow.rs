//! What users do, as short stories through the generated clients against the real binary.

mod callbacks;
mod checks;
mod consumption;
mod restart;
mod transactions;
