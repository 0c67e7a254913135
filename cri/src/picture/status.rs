//! ImageStatus: from memory, only the verbose form looks at the disk; an absent image is an empty answer.

use std::collections::HashMap;

use image::Image;
use proto::cri;
use serde_json::{Value, json};

use super::list::to_wire;
use crate::error::Error;
use crate::runtime::Runtime;

/// Tells about one image.
///
/// # Errors
/// The image's own description cannot be read.
pub async fn status(
    runtime: &Runtime,
    request: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse, Error> {
    let name = request.image.unwrap_or_default().image;
    let Some(image) = runtime.images.find(&name) else {
        return Ok(cri::ImageStatusResponse::default());
    };
    let info = if request.verbose { info(runtime, &image).await? } else { HashMap::new() };
    Ok(cri::ImageStatusResponse { image: Some(to_wire(&image)), info })
}

/// What `crictl inspecti` shows beyond the status: above all the image's configuration as its author wrote it.
async fn info(runtime: &Runtime, image: &Image) -> Result<HashMap<String, String>, Error> {
    let operation = || format!("describe image {}", image.id);
    let text = runtime.images.raw_config(&image.id).await;
    let text = text.map_err(|source| Error::Image { operation: operation(), source })?;
    let spec: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Io { operation: operation(), source: error.into() })?;
    let chain = image.layers.last().map(ToString::to_string);
    let info = json!({ "chainID": chain, "imageSpec": spec });
    Ok(HashMap::from([("info".to_owned(), info.to_string())]))
}
