//! ImageStatus: from memory; an absent image is an empty answer.

use std::collections::HashMap;

use image::Image;
use proto::cri;
use serde_json::json;

use super::list::to_wire;
use crate::runtime::Runtime;

/// Tells about one image.
#[must_use]
pub fn status(runtime: &Runtime, request: cri::ImageStatusRequest) -> cri::ImageStatusResponse {
    let name = request.image.unwrap_or_default().image;
    let Some(image) = runtime.images.find(&name) else {
        return cri::ImageStatusResponse::default();
    };
    let info = if request.verbose { info(&image) } else { HashMap::new() };
    cri::ImageStatusResponse { image: Some(to_wire(&image)), info }
}

/// What `crictl inspecti` shows beyond the status.
fn info(image: &Image) -> HashMap<String, String> {
    let config = &image.config;
    let info = json!({
        "chainID": image.layers.last().map(ToString::to_string),
        "imageSpec": {
            "config": {
                "User": config.user,
                "Env": config.env,
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "WorkingDir": config.working_dir,
                "StopSignal": config.stop_signal,
                "Labels": config.labels,
            },
        },
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
