// Case list, slice sliders and mask choices. Without scripts the worst case is shown at its first view.
document.querySelectorAll(".cases").forEach(function (box) {
  var buttons = box.querySelectorAll(".caselist button");
  var cases = box.querySelectorAll(".case");
  function show(index) {
    buttons.forEach(function (b, i) { b.setAttribute("aria-pressed", String(i === index)); });
    cases.forEach(function (c, i) { c.hidden = i !== index; });
  }
  buttons.forEach(function (button, index) {
    button.addEventListener("click", function () { show(index); });
    button.addEventListener("keydown", function (event) {
      var step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
      var next = buttons[index + step];
      if (step && next) { event.preventDefault(); next.focus(); next.click(); }
    });
  });
});
document.querySelectorAll(".viewer").forEach(function (viewer) {
  viewer.querySelectorAll("input[type=range]").forEach(function (slider) {
    var plane = slider.closest(".plane");
    var labels = slider.dataset.slices.split(" ");
    slider.addEventListener("input", function () {
      plane.querySelector(".stack").style.setProperty("--k", slider.value);
      plane.querySelector("output").textContent = labels[slider.value];
      slider.setAttribute("aria-valuetext", "slice " + labels[slider.value]);
    });
  });
  function redraw() {
    var chosen = viewer.querySelector("input[type=radio]:checked");
    viewer.querySelectorAll("img.mask").forEach(function (img) {
      var box = viewer.querySelector("input[type=checkbox][value='" + img.dataset.layer + "']");
      img.hidden = box ? !box.checked : !(chosen && chosen.value === img.dataset.layer);
    });
  }
  viewer.querySelectorAll("input[type=radio], input[type=checkbox]").forEach(function (input) {
    input.addEventListener("change", redraw);
  });
  redraw();
});
