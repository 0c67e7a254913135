//! The ImageService. What is not here answers UNIMPLEMENTED.

use proto::cri;
use proto::cri::image_service_server::ImageService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{Door, refuse, stream};
use crate::picture;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Door {
    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let image_ref = picture::pull::pull(&self.runtime, request.into_inner()).await;
        let image_ref = image_ref.map_err(refuse("PullImage"))?;
        Ok(Response::new(cri::PullImageResponse { image_ref }))
    }

    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        let images = picture::list::list(&self.runtime, request.into_inner().filter).collect();
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<BoxStream<cri::StreamImagesResponse>> {
        let images = picture::list::list(&self.runtime, request.into_inner().filter);
        let message = |images| cri::StreamImagesResponse { images };
        Ok(Response::new(stream::batches(images, message)))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let status = picture::status::status(&self.runtime, request.into_inner()).await;
        Ok(Response::new(status.map_err(refuse("ImageStatus"))?))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let removed = picture::remove::remove(&self.runtime, request.into_inner()).await;
        removed.map_err(refuse("RemoveImage"))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let info = picture::fs_info::fs_info(&self.runtime).await;
        Ok(Response::new(info.map_err(refuse("ImageFsInfo"))?))
    }
}
