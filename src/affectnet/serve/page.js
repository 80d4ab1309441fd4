// Runs once per result area. Pointing at a box, a point or a card highlights all three.
const highlight = (face) => {
  const root = element.querySelector(".an-result");
  if (!root) return;
  root.classList.toggle("an-chosen", face !== null);
  root.querySelectorAll("[data-face]").forEach((node) => {
    node.classList.toggle("an-on", node.dataset.face === face);
  });
};
const faceOf = (event) => event.target.closest?.("[data-face]")?.dataset.face ?? null;
element.addEventListener("pointerover", (event) => highlight(faceOf(event)));
element.addEventListener("pointerleave", () => highlight(null));
element.addEventListener("focusin", (event) => highlight(faceOf(event)));
element.addEventListener("click", (event) => {
  const face = faceOf(event);
  highlight(face);
  if (face !== null && !event.target.closest(".an-card")) {
    element.querySelector(`.an-card[data-face="${face}"]`)
      ?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
});
// The curve marks the current time of the video; clicking the curve seeks.
element.addEventListener("timeupdate", (event) => {
  const curve = element.querySelector(".an-curve");
  if (!curve) return;
  const x = 60 + 645 * Math.min(1, event.target.currentTime / Number(curve.dataset.end));
  const now = curve.querySelector(".an-now");
  now.setAttribute("d", `M${x} 10V${curve.dataset.height}`);
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
