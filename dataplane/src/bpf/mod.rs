//! Programs for the kernel, assembled here: no compiler is needed on the host.

pub mod classic;
