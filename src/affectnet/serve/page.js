// Runs once for each result area: pointing at a box, a point or a card marks all three.
const choose = (face) => {
  const root = element.querySelector(".an-result");
  if (!root) return;
  root.classList.toggle("an-chosen", face !== null);
  root.querySelectorAll("[data-face]").forEach((part) => {
    part.classList.toggle("an-on", part.dataset.face === face);
  });
};
const faceOf = (event) => event.target.closest?.("[data-face]")?.dataset.face ?? null;
element.addEventListener("pointerover", (event) => choose(faceOf(event)));
element.addEventListener("pointerleave", () => choose(null));
element.addEventListener("focusin", (event) => choose(faceOf(event)));
element.addEventListener("click", (event) => {
  const face = faceOf(event);
  choose(face);
  if (face !== null && !event.target.closest(".an-card")) {
    element.querySelector(`.an-card[data-face="${face}"]`)
      ?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
});
// The curve shows the moment that the video is at; clicking it goes there.
element.addEventListener("timeupdate", (event) => {
  const curve = element.querySelector(".an-curve");
  if (!curve) return;
  const x = 60 + 645 * Math.min(1, event.target.currentTime / Number(curve.dataset.end));
  const now = curve.querySelector(".an-now");
  now.setAttribute("d", `M${x} 10V300`);
  now.style.opacity = 0.7;
}, true);
element.addEventListener("click", (event) => {
  const plot = event.target.closest?.(".an-curve svg");
  const video = element.querySelector("video");
  if (!plot || !video) return;
  const at = plot.getBoundingClientRect();
  const x = (720 * (event.clientX - at.left)) / at.width;
  const end = Number(plot.closest(".an-curve").dataset.end);
  video.currentTime = Math.max(0, Math.min(1, (x - 60) / 645)) * end;
});
