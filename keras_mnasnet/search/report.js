document.querySelectorAll("button[data-copies]").forEach(function (button) {
  button.addEventListener("click", function () {
    var code = document.getElementById(button.dataset.copies);
    var done = function () { button.textContent = "Copied"; };
    var select = function () { window.getSelection().selectAllChildren(code); button.textContent = "Selected"; };
    if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).then(done, select); } else { select(); }
  });
});
document.documentElement.dataset.ready = "yes";
