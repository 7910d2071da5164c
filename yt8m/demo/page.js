// Upload a video as the request's body, show the progress, and go to its result.
const form = document.getElementById("upload");
if (form) {
  const [file, bar, status, problem] = ["file", "progress", "status", "problem"].map((id) => document.getElementById(id));
  const button = form.querySelector("button");
  const fail = (message) => {
    status.textContent = "";
    bar.hidden = true;
    button.disabled = false;
    problem.textContent = message;
    problem.hidden = false;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [video] = file.files;
    if (!video) return;
    problem.hidden = true;
    const most = Number(form.dataset.most);
    if (video.size > most) {
      fail(`expected a video of at most ${Math.round(most / 1e6)} MB, found ${Math.ceil(video.size / 1e6)} MB; cut it first`);
      return;
    }
    const request = new XMLHttpRequest();
    request.open("POST", "/upload");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => { bar.value = loaded / total; });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      status.textContent = "Reading the video …";
    });
    request.addEventListener("load", () => {
      const { location: result, error } = request.response ?? {};
      if (result) location.assign(result);
      else fail(error ?? `the server answered ${request.status}`);
    });
    request.addEventListener("error", () => fail("the server did not answer; is it still running?"));
    button.disabled = true;
    bar.hidden = false;
    bar.value = 0;
    status.textContent = "Uploading …";
    request.send(video);
  });
}
