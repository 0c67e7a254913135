//! ListImages and StreamImages: from memory.

use std::sync::Arc;

use image::Image;
use proto::cri;

use crate::runtime::Runtime;

/// Lists all images, or the one that the filter names.
pub fn list(
    runtime: &Runtime,
    filter: Option<cri::ImageFilter>,
) -> impl Iterator<Item = cri::Image> + use<> {
    let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
    let images: Vec<Arc<Image>> = if name.is_empty() {
        runtime.images.list()
    } else {
        runtime.images.find(&name).into_iter().collect()
    };
    images.into_iter().map(|image| to_wire(&image))
}

/// The wire's form of an image.
#[must_use]
pub fn to_wire(image: &Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    // A number says who it is; a name means what the image's own files say. Never both, and never a guess.
    let uid = user.parse::<u32>().ok().filter(|uid| i32::try_from(*uid).is_ok());
    let uid = if user.is_empty() { Some(0) } else { uid };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|uid| cri::Int64Value { value: uid.into() }),
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        spec: None,
        pinned: image.pinned,
    }
}
