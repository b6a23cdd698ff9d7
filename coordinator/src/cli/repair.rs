//! `halfmq repair`: what is damaged in a data directory, and how to go on without it.

use super::{consent, failure::Failure, output::Output, text};
use crate::store::embedded::{
    Error,
    repair::{Closed, Inspection},
};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct Repair {
    /// The data directory of a coordinator that is not running
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// End the journal in front of the damage: everything acknowledged behind it is given up. Copies of
    /// the files are kept beside it
    #[arg(long)]
    cut: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Repair {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let store = Closed::open(&self.data).map_err(failed)?;
        let inspection = store.inspect().map_err(failed)?;
        let Some(damage) = &inspection.damage else {
            let frames = text::count(inspection.frames, "frame");
            return output.answer(
                || format!("The journal is intact: {frames}."),
                || json!({ "intact": true, "frames": inspection.frames }),
            );
        };
        output.answer(|| describe(&inspection), || as_json(&inspection))?;
        if inspection.contents_only || !self.cut {
            return Err(Failure::Partly(format!("{damage}; nothing was changed")));
        }
        if !self.yes {
            let behind = text::count(inspection.frames_behind, "frame");
            consent::obtain(&format!("Give up {behind} that were acknowledged, and the damaged one?"))?;
        }
        let copies = store.cut(&inspection).map_err(failed)?;
        output.answer(
            || format!("Cut. The files as they were: {}", copies.display()),
            || json!({ "cut": true, "copies": copies }),
        )
    }
}

fn failed(error: Error) -> Failure {
    Failure::Partly(error.to_string())
}

fn describe(inspection: &Inspection) -> String {
    let Inspection { frames, damage, contents_only, frames_behind, files } = inspection;
    let damage = damage.as_ref().map(ToString::to_string).unwrap_or_default();
    if *contents_only {
        return format!(
            "Damaged: {damage}\n  files           {}\n\nThe coordinator starts all the same, unless delayed \
             messages that came back lately stood there: only messages that wait in this file are affected, and \
             those that cannot be read are refused, never passed on. Best: restore the file from a copy. There is \
             nothing to cut.",
            files.join(" "),
        );
    }
    format!(
        "Damaged: {damage}\n  in front of it  {} intact, nothing lost\n  behind it       {} intact, acknowledged, \
         out of reach\n  files           {}\n\nBest: restore these files from a copy. Otherwise `halfmq repair --cut` \
         keeps what is in front of the damage.",
        text::count(*frames, "frame"),
        text::count(*frames_behind, "frame"),
        files.join(" "),
    )
}

fn as_json(inspection: &Inspection) -> serde_json::Value {
    let damage = inspection.damage.as_ref().map(|damage| {
        json!({ "file": damage.file, "offset": damage.offset, "sequence": damage.sequence, "what": damage.what })
    });
    json!({
        "intact": false,
        "frames": inspection.frames,
        "damage": damage,
        "contents_only": inspection.contents_only,
        "frames_behind": inspection.frames_behind,
        "files": inspection.files,
    })
}
