"use strict";
// One time for the page: curves and episodes set it, the film, where it is opened, follows.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const video = document.getElementById("video");
  const output = document.getElementById("now");
  const curves = [...document.querySelectorAll(".curve")].map((card) => {
    const svg = card.querySelector("svg");
    const { width, height } = svg.viewBox.baseVal;
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "now");
    line.setAttribute("y2", height);
    svg.append(line);
    const left = width * card.dataset.left, right = width * card.dataset.right;
    return { svg, line, width, left, right };
  });
  const two = (number, digits = 0) => number.toFixed(digits).padStart(digits ? 4 : 2, "0");
  const clock = (time) => { // as `clock` of film_page.py
    const tenths = Math.round(10 * time), minutes = Math.floor(tenths / 600);
    const hours = Math.floor(minutes / 60);
    const front = hours ? `${hours}:${two(minutes % 60)}` : minutes;
    return `${front}:${two((tenths % 600) / 10, 1)}`;
  };
  const show = (time) => {
    output.textContent = clock(time);
    for (const { line, left, right } of curves) {
      const x = left + ((right - left) * time) / Math.max(data.end, 1e-3);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
  };
  const go = (time) => {
    const at = Math.min(Math.max(time, 0), data.end);
    show(at);
    if (!video.hidden) video.currentTime = at;
  };
  for (const { svg, width, left, right } of curves) {
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      go((data.end * (x - left)) / (right - left));
    });
  }
  for (const button of document.querySelectorAll(".episodes button")) {
    button.addEventListener("click", () => {
      document.querySelector(".episodes .is-now")?.classList.remove("is-now");
      button.classList.add("is-now");
      go(Number(button.dataset.time));
      (video.hidden ? document.getElementById("curves") : video).scrollIntoView({ block: "start" });
    });
  }
  video.addEventListener("timeupdate", () => show(video.currentTime));
  document.getElementById("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    URL.revokeObjectURL(video.src);
    video.src = URL.createObjectURL(file);
    video.hidden = false;
  });
  const choices = ["person", "expression"].map((name) => [name, document.getElementById(`by-${name}`)]);
  for (const [, select] of choices) {
    select?.addEventListener("change", () => {
      for (const row of document.querySelectorAll(".episodes li")) {
        row.hidden = choices.some(([name, one]) => one.value && row.dataset[name] !== one.value);
      }
    });
  }
  const files = Object.entries(data.files);
  for (const button of document.querySelectorAll("[data-file]")) {
    button.addEventListener("click", () => {
      const [name, text] = files[button.dataset.file];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
  show(0);
})();
