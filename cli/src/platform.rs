//! What this machine is, in platform properties.

/// Properties of this machine: what its worker offers, and what its builds ask of workers.
pub(crate) fn properties() -> Vec<(String, String)> {
    let isa = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        other => other,
    };
    [("ISA", isa), ("OSFamily", std::env::consts::OS)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
