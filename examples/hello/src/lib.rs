//! The smallest worker. It asks the host for nothing, so what it costs to serve is what the host costs.

use host_sdk::*;

#[fetch]
async fn main(_req: Request) -> Result<Response> {
    Response::ok("Hello, world!\n")
}
