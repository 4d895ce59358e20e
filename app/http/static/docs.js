SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  // No outside service may be asked: the page must work where there is no network.
  validatorUrl: null,
});
