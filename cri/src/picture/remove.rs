//! RemoveImage.

use proto::cri;

use crate::error::Error;
use crate::runtime::Runtime;

/// Removes an image with all its names; one that does not exist is removed.
///
/// # Errors
/// The image store's own.
pub async fn remove(runtime: &Runtime, request: cri::RemoveImageRequest) -> Result<(), Error> {
    let name = request.image.unwrap_or_default().image;
    let operation = format!("remove image {name:?}");
    if name.is_empty() {
        return Err(Error::Invalid { operation, reason: "no image is named".into() });
    }
    runtime.images.remove(&name).await.map_err(|source| Error::Image { operation, source })
}
