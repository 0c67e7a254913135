//! A registry that misbehaves: the repository's name says how.

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `wrong-layer`: each blob has the right length and other bytes.
    WrongLayer,
    /// `wrong-manifest`: a manifest asked for by digest has other bytes.
    WrongManifest,
    /// `truncated`: a blob ends halfway and the connection is closed.
    Truncated,
    /// `stalled`: a blob stops halfway and the connection stays open.
    Stalled,
    /// `endless`: a manifest that never ends.
    Endless,
    /// `failing`: everything answers 500.
    Failing,
    /// `missing`: nothing is there.
    Missing,
}

/// The repositories of the registry that misbehaves.
pub const REPOSITORIES: [&str; 7] =
    ["wrong-layer", "wrong-manifest", "truncated", "stalled", "endless", "failing", "missing"];

impl Fault {
    /// The fault of the repository of this name.
    pub fn of(repository: &str) -> Option<Self> {
        Some(match repository {
            "wrong-layer" => Self::WrongLayer,
            "wrong-manifest" => Self::WrongManifest,
            "truncated" => Self::Truncated,
            "stalled" => Self::Stalled,
            "endless" => Self::Endless,
            "failing" => Self::Failing,
            "missing" => Self::Missing,
            _ => return None,
        })
    }
}
